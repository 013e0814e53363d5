"""A setting of a baseline, chosen by how well it ranks the validation items."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from p5jax.core.progress import Report
from p5jax.data.dataset import Dataset
from p5jax.evaluation.baselines.scores import Scorer, target_ranks
from p5jax.evaluation.rank_metrics import LIST_LENGTH, ndcg
from p5jax.memory.histories import Histories, training_counts

USERS = 5000  # that choose, at most
SEED = 0  # of who they are


def best_on_validation(
    dataset: Dataset, what: str, settings: Iterable[tuple[float, Scorer]], report: Report
) -> float:
    """Return the setting whose scorer has the highest validation NDCG@10; of equals the first.

    One scorer is held at a time. `report` is told what was chosen among what.
    """
    cases, popularity = Histories.of(dataset, "validation"), training_counts(dataset)
    chosen = np.sort(np.random.default_rng(SEED).permutation(len(cases.first))[:USERS])
    cases = cases.of_users(chosen)
    found: dict[float, float] = {}
    for setting, scorer in settings:
        ranks = target_ranks(scorer, cases, popularity)
        found[setting] = float(ndcg(ranks, LIST_LENGTH).mean())
    best = max(found, key=found.__getitem__)
    values = ", ".join(f"{setting:g}: {value:.4f}" for setting, value in found.items())
    report(f"{what} {best:g}, by NDCG@10 of {len(chosen):,} validation users ({values})")
    return best
