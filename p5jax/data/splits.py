"""Filtering and splitting: repeated pairs, k-core, leave-one-out, cuts of time."""

from __future__ import annotations

import numpy as np

from p5jax.data.dataset import TEST, TRAIN, VALIDATION


def first_of_pairs(user: np.ndarray, item: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
    """Return for each row the row of its (user, item) pair that is kept: the earliest one.

    All arrays [N]; equal times are settled by source order. Returns int64 [N]; a row is kept when
    it maps to itself.
    """
    if not len(user):
        return np.zeros(0, np.int64)
    pair = user.astype(np.int64) * (int(item.max()) + 1) + item
    result = np.arange(len(pair))
    rows = _repeated(pair)  # most often few, and sorting them is all that takes memory
    pair = pair[rows]
    order = np.lexsort((timestamp[rows], pair))  # lexsort is stable, so ties stay in source order
    starts = np.r_[True, np.diff(pair[order]) != 0][: len(order)]
    keeper = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
    result[rows[order]] = rows[keeper]
    return result


def _repeated(values: np.ndarray) -> np.ndarray:
    """Return the positions of values [N] that occur more than once, int64, ascending."""
    ordered = np.sort(values)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    near = np.searchsorted(repeated, values)
    near[near == len(repeated)] = -1
    return np.flatnonzero(repeated[near] == values) if len(repeated) else np.zeros(0, np.int64)


def k_core(user: np.ndarray, item: np.ndarray, k: int) -> np.ndarray:
    """Return the mask [N] of the rows in the k-core.

    The k-core is the largest subset in which every user and every item has at least k rows; it is
    reached by dropping rows of too small users and items until none is left.
    """
    kept = np.ones(len(user), bool)
    while kept.any():
        enough_of_user = np.bincount(user[kept], minlength=user.max() + 1) >= k
        enough_of_item = np.bincount(item[kept], minlength=item.max() + 1) >= k
        remaining = kept & enough_of_user[user] & enough_of_item[item]
        if remaining.sum() == kept.sum():
            break
        kept = remaining
    return kept


def leave_one_out(user: np.ndarray) -> np.ndarray:
    """Return the split, int8 [N], of rows sorted by (user, time).

    A user's last row is TEST, the one before it VALIDATION, the others TRAIN. Every user must have
    at least three rows.
    """
    split = np.full(len(user), TRAIN, np.int8)
    ends = np.flatnonzero(np.r_[np.diff(user) != 0, True]) if len(user) else np.zeros(0, np.int64)
    split[ends] = TEST
    split[ends - 1] = VALIDATION
    return split


def by_time(timestamp: np.ndarray, cuts: tuple[int, int]) -> np.ndarray:
    """Return the split, int8 [N], of rows with these times [N].

    TRAIN is what was before the first cut, VALIDATION what was before the second, TEST the rest:
    rows of one time are in one part.
    """
    return np.searchsorted(np.array(cuts), timestamp, side="right").astype(np.int8)
