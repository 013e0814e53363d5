"""PAP-REC: trigger tokens found by gradient against a frozen model (arXiv 2402.00284)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p5jax.core.lazy import imported_when_used

if TYPE_CHECKING:
    from p5jax.triggers.ablation import ablate
    from p5jax.triggers.evaluation import evaluate_triggers
    from p5jax.triggers.layout import Layout
    from p5jax.triggers.searching import search
    from p5jax.triggers.settings import SearchConfig, SurrogateConfig

__all__ = ["Layout", "SearchConfig", "SurrogateConfig", "ablate", "evaluate_triggers", "search"]
__getattr__ = imported_when_used(
    __name__,
    {
        "Layout": "p5jax.triggers.layout:Layout",
        "SearchConfig": "p5jax.triggers.settings:SearchConfig",
        "SurrogateConfig": "p5jax.triggers.settings:SurrogateConfig",
        "ablate": "p5jax.triggers.ablation:ablate",
        "evaluate_triggers": "p5jax.triggers.evaluation:evaluate_triggers",
        "search": "p5jax.triggers.searching:search",
    },
)
