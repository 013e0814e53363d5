"""Direct tasks: the item of a candidate list that a user chooses, and yes/no about one item."""

from p5jax.tasks import metrics
from p5jax.tasks.postprocessing import answer as postprocess

__all__ = ["METRICS", "postprocess"]

METRICS = {"candidates": metrics.items, "yes_no": metrics.held_out_yes}
