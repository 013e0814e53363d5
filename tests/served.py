"""A small run with random parameters that tests put to use."""

from __future__ import annotations

from pathlib import Path

import jax

from p5jax.data.dataset import Dataset
from p5jax.models.t5 import init_params
from p5jax.models.t5_config import T5Config
from p5jax.prompts.families import FamilyConfig
from p5jax.runs.run import Run, RunConfig

MODEL = T5Config(
    vocab_size=0,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=32,
    whole_words=False,
)


def served_run(dataset: Dataset, folder: Path, *prompts: str) -> Run:
    """A run of a dataset whose answers differ between prompts and users."""
    config = RunConfig(str(dataset.path), str(folder), prompts=prompts, vocabulary_size=600)
    run = Run.create(config, FamilyConfig(max_source=256, num_candidates=10), MODEL)
    run.write()
    params = init_params(run.model, jax.random.key(0))
    params["token_embedder"]["embedding"] *= 20
    return run.with_params(params)
