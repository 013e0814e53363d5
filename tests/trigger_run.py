"""A run with random parameters, for tests of trigger tokens that need no trained model."""

from __future__ import annotations

import jax

from p5jax.models.t5 import T5Config, init_params
from p5jax.prompts.families import FamilyConfig
from p5jax.runs.run import Run, RunConfig

TINY = T5Config(
    vocab_size=0,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=32,
)


def random_run(dataset, folder, *, vocabulary_size=600, model=TINY, seed=0):
    """A new run of a dataset folder whose parameters are drawn by `seed`."""
    config = RunConfig(str(dataset), str(folder), vocabulary_size=vocabulary_size)
    run = Run.create(config, FamilyConfig(max_source=192, num_candidates=20), model)
    return run.with_params(init_params(run.model, jax.random.key(seed)))
