"""Ranking metrics of one relevant item per user, from its 0-based rank, with intervals.

A rank is the number of candidates that score strictly better; np.inf means "not ranked".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from p5jax.evaluation.intervals import Columns, mean_intervals

RANKING_CUTS = (1, 5, 10)
LIST_LENGTH = 10  # of the lists that are kept and that coverage counts


def hit_rate(ranks: np.ndarray, k: int) -> np.ndarray:
    """Return 1.0 where the relevant item is among the first k, per user: ranks [U] -> [U]."""
    return (np.asarray(ranks) < k).astype(np.float64)


def ndcg(ranks: np.ndarray, k: int) -> np.ndarray:
    """Return the discounted gain 1 / log2(rank + 2) within the first k, per user: [U] -> [U].

    With one relevant item the ideal gain is 1 (Järvelin and Kekäläinen 2002).
    """
    ranks = np.asarray(ranks, np.float64)
    return np.where(ranks < k, 1 / np.log2(ranks + 2), 0.0)


def mrr(ranks: np.ndarray) -> np.ndarray:
    """Return the reciprocal rank 1 / (rank + 1), per user, 0 where unranked: [U] -> [U]."""
    return 1 / (np.asarray(ranks, np.float64) + 1)


def ranking_columns(ranks: np.ndarray, ranked: int) -> Columns:
    """HR@k and NDCG@k at 1, 5, 10 and MRR per user, from ranks [U] among `ranked` items.

    A hit within k of no more than k items is certain, so such hit rates are left out, and of a
    single item every metric is.
    """
    columns: Columns = {}
    if ranked < 2:
        return columns
    for k in RANKING_CUTS:
        if k < ranked:
            columns[f"HR@{k}"] = hit_rate(ranks, k)
        columns[f"NDCG@{k}"] = ndcg(ranks, k)
    columns["MRR"] = mrr(ranks)
    return columns


def ranking_table(ranks: np.ndarray, ranked: int) -> dict[str, Any]:
    """Return {"n", the means of `ranking_columns`, "intervals": {metric: [low, high]}}."""
    metrics = mean_intervals(ranking_columns(ranks, ranked), shares=True)
    return {
        "n": len(ranks),
        **{name: value for name, (value, _, _) in metrics.items()},
        "intervals": {name: [low, high] for name, (_, low, high) in metrics.items()},
    }
