"""Sequential tasks: the next item of a history, out of the catalogue or of a list, and yes/no."""

from p5jax.tasks import metrics
from p5jax.tasks.postprocessing import answer as postprocess

__all__ = ["METRICS", "postprocess"]

METRICS = {
    "catalogue": metrics.items,
    "candidates": metrics.items,
    "choice": metrics.choices,
}
