"""SeqIO tasks and mixtures of the five prompt families; imported as `p5jax.tasks`.

    import p5jax.tasks, seqio

    name = p5jax.tasks.register_run("runs/instruments")
    dataset = seqio.get_mixture_or_task(name).get_dataset({"inputs": 512, "targets": 64}, "train")

Names: `p5_<dataset>_<family>`, `p5_<dataset>_<family>_zeroshot`, `p5_<dataset>_<family>_2_3` (a
prompt) are tasks; `p5_<dataset>`, `p5_<dataset>_without_<family>` and `p5_<dataset>_zeroshot` are
mixtures. Needs the extra [seqio].
"""

from p5jax.tasks.registry import find, register, register_run, vocabulary_of

__all__ = ["find", "register", "register_run", "vocabulary_of"]
