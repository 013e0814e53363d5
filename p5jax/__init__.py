"""p5jax: recommendation as language processing on JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p5jax.recommender import Recommender

__version__ = "0.1.0"


def load(run: str) -> Recommender:
    """Load a run folder for recommending, explaining and generating; see p5jax.recommender."""
    from p5jax.recommender import Recommender

    return Recommender.load(run)
