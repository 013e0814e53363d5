"""Ranks of held-out items among the whole catalogue, by any scorer.

A scorer is called with (users [N], items int32 [N, S] right-aligned from 1, candidates [N, C] or
None for all items) and returns scores [N, C] or [N, I].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import cast

import jax
import numpy as np

from p5jax.core.errors import UserError
from p5jax.data.dataset import Dataset
from p5jax.evaluation.rank_metrics import LIST_LENGTH
from p5jax.evaluation.ranking_evaluators import ranking_result
from p5jax.evaluation.results import FamilyResult
from p5jax.models.initial import Params
from p5jax.parallel.placing import place_rows, to_host
from p5jax.ppr.backbone.model import Backbone, item_scores
from p5jax.ppr.backbone.sequences import right_aligned

Scorer = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]
BATCH_SIZE = 512  # users


class BackboneScorer:
    """Scores of a backbone without a prompt, for any histories; who the users are has no effect."""

    def __init__(self, model: Backbone, params: Params) -> None:
        self.model, self.params = model, params

    def __call__(
        self, users: np.ndarray, items_NxS: np.ndarray, candidates: np.ndarray | None = None
    ) -> np.ndarray:
        """Histories longer than the backbone's max_history are cut to their most recent items."""
        items = place_rows(self.params, items_NxS[:, -self.model.config.max_history :])
        chosen = None if candidates is None else place_rows(self.params, candidates)
        scores: np.ndarray = to_host(_scores(self.model, self.params, items, chosen))
        return scores[: len(items_NxS)]


@partial(jax.jit, static_argnums=0)
def _scores(
    model: Backbone, params: Params, items_BxS: jax.Array, candidates: jax.Array | None
) -> jax.Array:
    variables = {"params": params}
    state = cast(jax.Array, model.apply(variables, items_BxS, method="user_state"))
    table = cast(jax.Array, model.apply(variables, method="item_table"))
    return item_scores(state, table, candidates)


def target_ranks(
    scores_NxI: np.ndarray, histories: Sequence[np.ndarray], targets: np.ndarray
) -> tuple[np.ndarray, list[list[int]]]:
    """Return each target's rank and each user's first ten items, without the history.

    A rank is the number of items that score strictly better and are not in the history. histories:
    N arrays of dataset items; targets: [N]. UserError when a target's score is not a number.
    """
    scores = np.array(scores_NxI, np.float32)
    own = scores[np.arange(len(targets)), targets]
    if np.isnan(own).any():
        raise UserError("scores: found nan, expected numbers; did the training diverge?")
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    scores[rows, np.concatenate([np.zeros(0, np.int64), *histories])] = -np.inf
    ranks = (scores > own[:, None]).sum(axis=1)
    count = min(LIST_LENGTH, scores.shape[1])
    best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1, kind="stable")
    best = np.take_along_axis(best, order, 1)
    lists = [row[np.isfinite(scores[number, row])].tolist() for number, row in enumerate(best)]
    return ranks, lists


def catalogue_ranks(
    scorer: Scorer,
    dataset: Dataset,
    split: str,
    users: np.ndarray,
    width: int,
    batch_size: int = BATCH_SIZE,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, list[list[int]]]]:
    """Yield (users, targets, ranks, lists) of the split's pairs for batches of users.

    The scorer sees the last `width` items before the target, in arrays of one shape: the last
    batch is filled up with empty histories.
    """
    users = np.asarray(users)
    size = min(batch_size, len(users))
    for start in range(0, len(users), batch_size):
        part = users[start : start + batch_size]
        histories = [dataset.history(user, split) for user in part]
        targets = np.array([dataset.target(user, split) for user in part])
        rows = np.zeros((size, width), np.int32)
        rows[: len(part)] = right_aligned(histories, width)
        asked = np.resize(part, size)
        scores = scorer(asked, rows, None)[: len(part)]
        yield part, targets, *target_ranks(scores, histories, targets)


def catalogue_result(
    scorer: Scorer,
    name: str,
    dataset: Dataset,
    split: str,
    users: np.ndarray | None = None,
    *,
    width: int,
    batch_size: int = BATCH_SIZE,
) -> FamilyResult:
    """Return metrics with intervals, and values per user, of those of `users` (default: all) who
    have a target.

    The result has the form of p5jax evaluate's. width: how many of the last items the scorer sees.
    UserError without users.
    """
    held_out = dataset.held_out_users(split)
    users = held_out if users is None else np.intersect1d(users, held_out)
    if not len(users):
        raise UserError("users: found none, expected some to rank for")
    parts = list(catalogue_ranks(scorer, dataset, split, users, width, batch_size))
    ranked, targets, ranks = (np.concatenate([part[i] for part in parts]) for i in range(3))
    lists = [row for part in parts for row in part[3]]
    return ranking_result(
        "sequential",
        name,
        "catalogue",
        ranked,
        targets,
        ranks,
        lists,
        dataset.num_items,
        seen=None,
    )
