"""p5jax: recommendation as language processing on JAX.

Every name is imported when it is first used: `import p5jax` alone imports neither jax nor numpy.
The packages `triggers`, `ppr` and `models` have public names of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p5jax.core.lazy import imported_when_used

if TYPE_CHECKING:
    from p5jax.core.errors import Interrupted, UserError
    from p5jax.data.dataset import Dataset
    from p5jax.data.prepare import prepare
    from p5jax.jobs.audit import audit
    from p5jax.jobs.compare import compare
    from p5jax.jobs.evaluate import evaluate
    from p5jax.jobs.train import train
    from p5jax.runs.run import Run
    from p5jax.serving.recommender import Recommender

    load = Recommender.load

__version__ = "0.1.0"
__all__ = [
    "Dataset",
    "Interrupted",
    "Recommender",
    "Run",
    "UserError",
    "__version__",
    "audit",
    "compare",
    "evaluate",
    "load",
    "prepare",
    "train",
]
__getattr__ = imported_when_used(
    __name__,
    {
        "Dataset": "p5jax.data.dataset:Dataset",
        "Interrupted": "p5jax.core.errors:Interrupted",
        "Recommender": "p5jax.serving.recommender:Recommender",
        "Run": "p5jax.runs.run:Run",
        "UserError": "p5jax.core.errors:UserError",
        "audit": "p5jax.jobs.audit:audit",
        "compare": "p5jax.jobs.compare:compare",
        "evaluate": "p5jax.jobs.evaluate:evaluate",
        "load": "p5jax.serving.recommender:Recommender.load",
        "models": "p5jax.models",
        "ppr": "p5jax.ppr",
        "prepare": "p5jax.data.prepare:prepare",
        "train": "p5jax.jobs.train:train",
        "triggers": "p5jax.triggers",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
