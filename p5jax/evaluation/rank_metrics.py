"""Ranking metrics of one relevant item per user, from its 0-based rank, with intervals.

A rank is the number of candidates that score strictly better; np.inf means "not ranked".
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

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


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Return (mean, low, high): the normal-approximation interval of a per-user mean.

    The half width is z * s / sqrt(n) with the sample standard deviation s; fewer than two values
    have no interval (nan bounds), and none have no mean.
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    if n == 0:
        return float("nan"), float("nan"), float("nan")
    mean = float(values.mean())
    if n == 1:
        return mean, float("nan"), float("nan")
    half = NormalDist().inv_cdf(0.5 + level / 2) * float(values.std(ddof=1)) / n**0.5
    return mean, mean - half, mean + half


def ranking_table(ranks: np.ndarray, ks: Sequence[int] = (1, 5, 10)) -> dict[str, Any]:
    """Return {"n", "HR@k"…, "NDCG@k"…, "MRR", "intervals": {metric: [low, high]}} of ranks [U].

    Metrics are means over users; NDCG@1 equals HR@1 and is left out.
    """
    ranks = np.asarray(ranks, np.float64)
    per_user = {}
    for k in ks:
        per_user[f"HR@{k}"] = hit_rate(ranks, k)
        if k > 1:
            per_user[f"NDCG@{k}"] = ndcg(ranks, k)
    per_user["MRR"] = mrr(ranks)
    table: dict[str, Any] = {"n": len(ranks)}
    intervals = {}
    for name, values in per_user.items():
        mean, low, high = mean_interval(values)
        table[name] = mean
        intervals[name] = [low, high]
    table["intervals"] = intervals
    return table
