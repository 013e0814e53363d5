"""Histories and pairs of training interactions: what baselines count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from p5jax.data.dataset import SPLITS, Dataset
from p5jax.prompts.sampling import whole_stars

HELD_OUT = {"test": 0, "validation": 1, "train": 2}  # items after the target in a full sequence
PAIRS_PER_FLUSH = 4_000_000


@dataclass(frozen=True)
class Histories:
    """Histories [first, last) into `items` and the target after each, for one split's users."""

    items: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @staticmethod
    def of(dataset: Dataset, split: str) -> Histories:
        """Cut every user's sequence before the split's target.

        "train" asks for the last training item from those before it; a user without two training
        items has no such case and an empty history.
        """
        last = dataset.offsets[1:] - HELD_OUT[split] - 1
        first = dataset.offsets[:-1]
        return Histories(dataset.sequence_items, first, np.maximum(first, last))

    @staticmethod
    def whole(dataset: Dataset) -> Histories:
        """Take all that is known of every user; no target follows."""
        return Histories(dataset.sequence_items, dataset.offsets[:-1], dataset.offsets[1:])

    @staticmethod
    def given(sequences: Sequence[np.ndarray]) -> Histories:
        """Take histories that are given, each int [n] in time order; no target follows."""
        ends = np.cumsum([len(sequence) for sequence in sequences])
        return Histories(np.concatenate(sequences), np.concatenate([[0], ends[:-1]]), ends)

    def of_users(self, users: Sequence[int] | np.ndarray) -> Histories:
        """Return the cases of some users, in their order."""
        return Histories(self.items, self.first[users], self.last[users])

    def targets(self) -> np.ndarray:
        """Return the item that follows each history, [U]."""
        found: np.ndarray = self.items[self.last]
        return found

    def part(self, start: int, stop: int) -> Histories:
        """Return the cases of users start … stop - 1."""
        return Histories(self.items, self.first[start:stop], self.last[start:stop])

    def recent(self, length: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield (d, users, items): who has a d-th item from the history's end, and which."""
        lengths = self.last - self.first
        for d in range(min(length, int(lengths.max(initial=0)))):
            users = np.flatnonzero(lengths > d)
            yield d, users, self.items[self.last[users] - 1 - d]

    def history(self, num_items: int) -> sp.csr_array:
        """Return a boolean matrix [U, I], true where the user has the item."""
        lengths = self.last - self.first
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(indptr[-1]) - np.repeat(indptr[:-1], lengths)
        columns = self.items[np.repeat(self.first, lengths) + within]
        shape = (len(lengths), num_items)
        return sp.csr_array((np.ones(len(columns), bool), columns, indptr), shape=shape)


def training_counts(dataset: Dataset) -> np.ndarray:
    """Return how often each item occurs in training sequences, [I]."""
    return np.bincount(dataset.sequence_items[in_training(dataset)], minlength=dataset.num_items)


def ratings_of(dataset: Dataset, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return users, items and whole stars of a split's rated interactions, each [N]."""
    table = dataset.interactions
    ratings = table["rating"].to_numpy().astype(np.float64)
    kept = (table["split"].to_numpy() == SPLITS.index(split)) & ~np.isnan(ratings)
    stars = np.array([whole_stars(rating) for rating in ratings[kept].tolist()], np.float64)
    return table["user"].to_numpy()[kept], table["item"].to_numpy()[kept], stars


def in_training(dataset: Dataset) -> np.ndarray:
    """Return a mask of the interactions before those that are held out, [N]."""
    ends = np.repeat(dataset.offsets[1:], np.diff(dataset.offsets))
    return np.arange(len(ends)) < ends - dataset.held_out


def training_matrix(dataset: Dataset) -> sp.csr_array:
    """Return who has which item in training, 1.0 or nothing, float32 [U, I]."""
    kept = in_training(dataset)
    users = np.repeat(np.arange(dataset.num_users), np.diff(dataset.offsets))[kept]
    pairs = users, dataset.sequence_items[kept]
    shape = (dataset.num_users, dataset.num_items)
    found = sp.csr_array((np.ones(len(users), np.float32), pairs), shape=shape)
    found.sum_duplicates()
    found.data[:] = 1
    return found


def neighbours(
    dataset: Dataset,
    max_distance: int | None,
    weight: Callable[[int], tuple[float, float]],
    chosen: np.ndarray | None = None,
) -> sp.csr_array:
    """Sum `weight(distance)` = (forward, backward) over pairs of training positions, [I, I].

    chosen: the users whose histories are counted (default: all).
    """
    users = np.repeat(np.arange(dataset.num_users), np.diff(dataset.offsets))
    kept = in_training(dataset)
    if chosen is not None:
        kept &= np.isin(users, chosen)
    items = dataset.sequence_items[kept]
    return summed_pairs(items, users[kept], dataset.num_items, max_distance, weight)


def summed_pairs(
    items: np.ndarray,
    users: np.ndarray,
    num_items: int,
    max_distance: int | None,
    weight: Callable[[int], tuple[float, float]],
) -> sp.csr_array:
    """Sum `weight(distance)` over pairs of one user's positions, [I, I].

    items, users [N]: positions in time order, those of a user beside each other.
    """
    longest = int(np.bincount(users, minlength=1).max(initial=0))
    shape = (num_items, num_items)
    total = sp.csr_array(shape, dtype=np.float64)
    waiting: list[tuple[np.ndarray, np.ndarray, float]] = []
    starts = np.arange(len(items))
    for distance in range(1, min(longest - 1, max_distance or longest) + 1):
        starts = starts[starts + distance < len(items)]
        starts = starts[users[starts] == users[starts + distance]]
        forward, backward = weight(distance)
        waiting.append((items[starts], items[starts + distance], forward))
        if backward:
            waiting.append((items[starts + distance], items[starts], backward))
        if sum(len(rows) for rows, _, _ in waiting) > PAIRS_PER_FLUSH:
            total, waiting = total + summed(waiting, shape), []
    return total + summed(waiting, shape)


def summed(
    pairs: list[tuple[np.ndarray, np.ndarray, float]], shape: tuple[int, int]
) -> sp.csr_array:
    """Add up (rows, columns, value) of equal positions in a matrix."""
    if not pairs:
        return sp.csr_array(shape, dtype=np.float64)
    values = np.concatenate([np.full(len(rows), value) for rows, _, value in pairs])
    rows = np.concatenate([rows for rows, _, _ in pairs])
    columns = np.concatenate([columns for _, columns, _ in pairs])
    return sp.csr_array((values, (rows, columns)), shape=shape)
