"""Explanation tasks: a sentence on why a user likes an item."""

from p5jax.tasks import metrics
from p5jax.tasks.postprocessing import sentence as postprocess

__all__ = ["METRICS", "postprocess"]

METRICS = {"text": metrics.sentences, "rating": metrics.stars, "choice": metrics.choices}
