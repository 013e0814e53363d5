"""SeqIO tasks and mixtures of the five prompt families; imported as `p5jax.tasks`."""
