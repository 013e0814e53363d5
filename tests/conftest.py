"""Fixtures: the shared real data (when present) and one small synthetic world."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALL_EXTRAS = re.compile(r"^pytestmark = .*\bmark\.extras\b", re.MULTILINE)

# Compiling takes most of the suite's time. Every process of it, and the next run, shares what was
# compiled (JAX keys a program by its text, its options and XLA's version), and XLA tries less hard
# to make programs fast; `make test-extras` and `make check` set that back to what users get.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves files whose tests all need extras unopened: they import tensorflow or torch."""
    if "not extras" not in config.option.markexpr or not collection_path.is_file():
        return None
    return True if ALL_EXTRAS.search(collection_path.read_text()) else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; tests that use it skip where it is absent."""
    folder = Path(os.environ.get("P5JAX_SHARED", ROOT / ".." / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip("no real data at ../shared (set P5JAX_SHARED to its folder)")
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
