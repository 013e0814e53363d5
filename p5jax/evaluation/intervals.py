"""95 % intervals: Wilson's for rates, the bootstrap for other means and for statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np

Interval = tuple[float, float, float]  # value, low and high end of the 95 % interval
Columns = dict[str, np.ndarray]  # metric name -> one value per user

INTERVAL_RESAMPLES = 1000
_CHUNK = 250  # resamples at a time: bounds the memory for many users
_ENDS = (0.025, 0.975)
Z95 = NormalDist().inv_cdf(_ENDS[1])


def mean_intervals(columns: Columns, *, shares: bool, seed: int = 0) -> dict[str, Interval]:
    """Mean and 95 % interval of each per-user column [N]; all columns have the same N.

    Columns of zeros and ones (rates) get Wilson's interval (1927), the others the percentile
    bootstrap (Efron 1979), the same users sampled for all. shares: every value is in 0 … 1 by what
    it means; where then all users have the same value, which tells a bootstrap nothing, the
    interval is that of a rate with this mean, for no values in 0 … 1 vary more. Otherwise such a
    column has no interval (nan), and no users have no mean either.
    """
    found: dict[str, Interval] = {}
    sampled: Columns = {}
    for name, column in columns.items():
        values = np.asarray(column, np.float64)
        if len(values) == 0:
            found[name] = (math.nan, math.nan, math.nan)
        elif shares and (np.ptp(values) == 0 or np.isin(values, (0, 1)).all()):
            found[name] = rate_interval(float(values.mean()), len(values))
        elif np.ptp(values) == 0:
            found[name] = (float(values[0]), math.nan, math.nan)
        else:
            sampled[name] = values
    if sampled:
        values_NxF = np.stack(list(sampled.values()), axis=1)
        means_RxF = resampled_means(values_NxF, resamples=INTERVAL_RESAMPLES, seed=seed)
        ends_2xF = np.quantile(means_RxF, _ENDS, axis=0)
        for name, mean, low, high in zip(sampled, values_NxF.mean(axis=0), *ends_2xF, strict=True):
            found[name] = (float(mean), float(low), float(high))
    return {name: found[name] for name in columns}


def mean_interval(values: np.ndarray, *, shares: bool) -> Interval:
    """`mean_intervals` of one column."""
    return mean_intervals({"": values}, shares=shares)[""]


def rate_interval(rate: float, n: int) -> Interval:
    """A share of n >= 1 with Wilson's 95 % interval (1927), which never leaves 0 … 1."""
    square = Z95**2 / n
    centre = rate + square / 2
    half = math.sqrt(square * (rate * (1 - rate) + square / 4))
    low, high = (centre - half) / (1 + square), (centre + half) / (1 + square)
    return rate, max(0.0, min(low, rate)), min(1.0, max(high, rate))  # rounding, at 0 and 1


def resampled_means(values_NxF: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """Means of the columns [N, F] over users sampled with replacement -> [resamples, F]."""
    n = len(values_NxF)
    chunks = _sampled_counts(n, resamples, seed)
    return np.concatenate([counts.astype(np.float64) @ values_NxF / n for counts in chunks])


def _sampled_counts(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n users is in each resample: [at most _CHUNK, n] at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        counts = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(size)]
        yield np.array(counts)


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float], n: int, *, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap of `statistic`, a function of how often each of n users is sampled.

    Returns the ends of the 95 % interval (Efron 1979); the same seed gives the same interval. One
    user has none (nan).
    """
    if n < 2:
        return math.nan, math.nan
    chunks = _sampled_counts(n, INTERVAL_RESAMPLES, seed)
    low, high = np.quantile([statistic(row) for counts in chunks for row in counts], _ENDS)
    return float(low), float(high)


def interval_and_p_value(differences: np.ndarray) -> tuple[float, float, float]:
    """The middle 95 % of resampled differences [R], and a two-sided p-value.

    p is twice the share of resamples on the other side of zero, ties counted half, and never below
    one resample (Efron and Tibshirani 1993, chapter 15).
    """
    low, high = np.quantile(differences, _ENDS)
    below = (differences < 0).mean() + (differences == 0).mean() / 2
    p_value = min(1.0, max(2 * min(below, 1 - below), 1 / len(differences)))
    return float(low), float(high), float(p_value)


def format_value(interval: Interval, digits: int = 4) -> tuple[str, str]:
    """The two cells of an interval in a text table: its value and, to be put below, its ends."""
    value, low, high = interval
    ends = "-" if math.isnan(low) else f"[{low:.{digits}f}, {high:.{digits}f}]"
    return f"{value:.{digits}f}", ends
