"""Registers, when imported, what the environment names: see `p5jax.tasks.environment`.

For `seqio_cache_tasks --module_import=p5jax.tasks.from_environment`, whose workers on Dataflow,
Flink or Spark import it as well and need the same variables and paths.
"""

import os

from p5jax.tasks.environment import register_from

MIXTURE = register_from(os.environ)
