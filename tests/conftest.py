"""Fixtures: the shared real data (when present) and one small synthetic world."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; tests that use it skip where it is absent."""
    folder = Path(os.environ.get("P5JAX_SHARED", ROOT / ".." / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder} (set P5JAX_SHARED)")
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A small synthetic dataset with numeric, training-only ids."""
    from p5jax.data.dataset import Dataset
    from p5jax.data.prepare import prepare
    from p5jax.data.synthetic import synthetic_raw

    out = tmp_path_factory.mktemp("world") / "dataset"
    prepare(synthetic_raw(users=120, items=60, seed=0), out, scheme="sequential", seed=0)
    return Dataset.load(out)


@pytest.fixture(scope="session")
def world_vocabulary(world):
    """A vocabulary trained on the synthetic world's own text."""
    from p5jax.text.vocabulary import Vocabulary

    texts = [t for t in world.reviews["text"].to_pylist() + world.titles if t]
    return Vocabulary.train(texts, size=600, id_tokens=world.id_tokens, seed=0)
