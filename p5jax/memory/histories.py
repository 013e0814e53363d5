"""Histories and pairs of training interactions: what baselines count."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from p5jax.data.dataset import SPLITS, TRAIN, Dataset
from p5jax.prompts.sampling import whole_stars

PAIRS_AT_ONCE = 4_000_000  # about, but all of an item


@dataclass(frozen=True)
class Histories:
    """Histories [first, last) into `items` and the target after each, a case for each user."""

    items: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @staticmethod
    def of(
        dataset: Dataset, split: str, users: Sequence[int] | np.ndarray | None = None
    ) -> Histories:
        """Cut the sequences of users who have a target in the split before it (default: all).

        "train" asks for the last training item of those who have two from what is before it.
        """
        last = dataset.known_until(split)
        if split == "train":
            last = last - 1
            users = np.flatnonzero(dataset.training_lengths > 1) if users is None else users
        elif users is None:
            users = dataset.held_out_users(split)
        return Histories(dataset.sequence_items, dataset.offsets[users], last[users])

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
        """Return some of the cases, by their number, in their order."""
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
    """Return a mask of the interactions for training, [N]."""
    found: np.ndarray = dataset.interactions["split"].to_numpy() == TRAIN
    return found


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
    rows: range | None = None,
) -> sp.csr_array:
    """Sum `weight(distance)` = (forward, backward) over pairs of training positions, [I, I].

    chosen: the users whose histories are counted (default: all). rows: see summed_pairs.
    """
    users = np.repeat(np.arange(dataset.num_users), np.diff(dataset.offsets))
    kept = in_training(dataset)
    if chosen is not None:
        kept &= np.isin(users, chosen)
    items = dataset.sequence_items[kept]
    return summed_pairs(items, users[kept], dataset.num_items, max_distance, weight, rows)


def summed_pairs(
    items: np.ndarray,
    users: np.ndarray,
    num_items: int,
    max_distance: int | None,
    weight: Callable[[int], tuple[float, float]],
    rows: range | None = None,
) -> sp.csr_array:
    """Sum `weight(distance)` over pairs of one user's positions, [I, I].

    items, users [N]: positions in time order, those of a user beside each other. rows: of the
    matrix, the others being empty (default: all).
    """
    rows = range(num_items) if rows is None else rows
    others = np.bincount(users, minlength=1) - 1
    most = 2 * np.minimum(others, max_distance or len(items))
    pairs = np.bincount(items, weights=most[users], minlength=num_items)[rows.start : rows.stop]
    cuts = np.flatnonzero(np.diff(np.cumsum(pairs) // PAIRS_AT_ONCE)) + 1 + rows.start
    distances = range(1, min(others.max(), max_distance or len(items)) + 1)
    parts = []  # by rows, so that nothing is added to what is there
    for first, end in itertools.pairwise([rows.start, *cuts.tolist(), rows.stop]):
        here = np.flatnonzero((items >= first) & (items < end))
        found = _pairs_from(here, items, users, distances, weight)
        parts.append(summed(list(found), (num_items, num_items)))
    data, indices = (np.concatenate([getattr(p, of) for p in parts]) for of in ("data", "indices"))
    return sp.csr_array(
        (data, indices, sum(p.indptr.astype(np.int64) for p in parts)), shape=parts[0].shape
    )


def _pairs_from(
    positions: np.ndarray,
    items: np.ndarray,
    users: np.ndarray,
    distances: range,
    weight: Callable[[int], tuple[float, float]],
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Yield (items, items, weight) of the pairs of some positions with others of their user."""
    from_here = to_here = positions
    for distance in distances:
        from_here = from_here[from_here + distance < len(items)]
        from_here = from_here[users[from_here] == users[from_here + distance]]
        forward, backward = weight(distance)
        yield items[from_here], items[from_here + distance], forward
        if backward:
            to_here = to_here[to_here >= distance]
            to_here = to_here[users[to_here] == users[to_here - distance]]
            yield items[to_here], items[to_here - distance], backward


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
