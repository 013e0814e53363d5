"""The p5jax command."""
