"""Filtering and splitting: repeated pairs, k-core, leave-one-out, cuts of time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from p5jax.data.dataset import TEST, TRAIN, VALIDATION

SORTED = 1 << 21  # rows that are sorted at once, about


def first_of_pairs(user: np.ndarray, item: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
    """Return for each row the row of its (user, item) pair that is kept: the earliest one.

    All arrays [N]; equal times are settled by source order. Returns int64 [N]; a row is kept when
    it maps to itself.
    """
    result = np.arange(len(user))
    for rows in _some_users(user):
        pair = user[rows].astype(np.int64) * (int(item.max()) + 1) + item[rows]
        order = np.lexsort((timestamp[rows], pair))  # stable, so ties stay in source order
        rows, pair = rows[order], pair[order]
        starts = np.r_[True, np.diff(pair) != 0]
        result[rows] = rows[np.maximum.accumulate(np.where(starts, np.arange(len(rows)), 0))]
    return result


def by_user_and_time(user: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
    """Return the rows [N] in the order of (user, time), int64; ties stay in source order."""
    found = (rows[np.lexsort((timestamp[rows], user[rows]))] for rows in _some_users(user))
    return np.concatenate([np.zeros(0, np.int64), *found])


def _some_users(user: np.ndarray) -> Iterator[np.ndarray]:
    """Yield all rows, ascending int64, of about SORTED each, those of the first users first.

    Sorting them takes that much less memory, and is faster in a core's cache.
    """
    ends = np.cumsum(np.bincount(user))
    bounds = np.searchsorted(ends, np.arange(0, len(user), SORTED)).tolist()
    for first, end in itertools.pairwise([*dict.fromkeys(bounds), len(ends)]):
        rows = np.flatnonzero((user >= first) & (user < end))
        if len(rows):
            yield rows


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
