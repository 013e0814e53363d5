"""Rating tasks: the stars of an interaction, and yes/no and like/dislike about them."""

from p5jax.tasks import metrics
from p5jax.tasks.postprocessing import answer as postprocess

__all__ = ["METRICS", "postprocess"]

METRICS = {"rating": metrics.stars, "choice": metrics.choices}
