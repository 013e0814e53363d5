"""p5jax: recommendation as language processing on JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p5jax.serving.recommender import Recommender

__version__ = "0.1.0"


def load(run: str, triggers: str | None = None) -> Recommender:
    """Load a run folder for recommending, explaining and generating, with the prompt of a folder
    of trigger tokens where one is given; see p5jax.serving.recommender."""
    from p5jax.serving.recommender import Recommender

    return Recommender.load(run, triggers)
