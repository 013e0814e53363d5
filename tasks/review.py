"""Review tasks: a review's headline, and its stars or like/dislike."""

from p5jax.tasks import metrics
from p5jax.tasks.postprocessing import sentence as postprocess

__all__ = ["METRICS", "postprocess"]

METRICS = {"text": metrics.sentences, "rating": metrics.stars, "choice": metrics.choices}
