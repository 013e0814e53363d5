"""Soft prefix prompts from user profiles (PPR), for cold-start recommendation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p5jax.core.lazy import imported_when_used

if TYPE_CHECKING:
    from p5jax.ppr.cold.recommend import recommend
    from p5jax.ppr.cold_study import StudyConfig, study
    from p5jax.ppr.tuned import Tuned

    load = Tuned.load

__all__ = ["StudyConfig", "Tuned", "load", "recommend", "study"]
__getattr__ = imported_when_used(
    __name__,
    {
        "StudyConfig": "p5jax.ppr.cold_study:StudyConfig",
        "Tuned": "p5jax.ppr.tuned:Tuned",
        "load": "p5jax.ppr.tuned:Tuned.load",
        "recommend": "p5jax.ppr.cold.recommend:recommend",
        "study": "p5jax.ppr.cold_study:study",
    },
)
