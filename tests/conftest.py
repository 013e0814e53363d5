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
    from p5jax.data.building import build_dataset
    from p5jax.data.dataset import Dataset
    from p5jax.data.readers.synthetic import synthetic_raw

    out = tmp_path_factory.mktemp("world") / "dataset"
    build_dataset(synthetic_raw(users=120, items=60, seed=0), out, scheme="sequential", seed=0)
    return Dataset.load(out)


@pytest.fixture(scope="session")
def world_vocabulary(world):
    """A vocabulary trained on the synthetic world's own text."""
    from p5jax.text.vocabulary import Vocabulary

    texts = [t for t in world.reviews["text"].to_pylist() + world.titles if t]
    return Vocabulary.train(texts, size=600, id_tokens=world.id_tokens, seed=0)


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The toy run's folder and result that every interrupted one must reach."""
    from toy_training import train_toy

    run_dir = tmp_path_factory.mktemp("uninterrupted")
    return run_dir, train_toy(run_dir)


@pytest.fixture(scope="module")
def xla_cache(tmp_path_factory):
    """A compilation cache for modules whose tests compile the same few programs again and again,
    also in processes of their own."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    values = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("xla")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in values}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        compilation_cache.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
