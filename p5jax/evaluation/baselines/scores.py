"""Scores of the catalogue for a chunk of users, and where they put an item.

What the user already has is left out, and equal items fall by training popularity. Counts touch
few items, so their scores are sparse, and what is not stored is unscored; other scores are dense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.sparse as sp

from p5jax.memory.histories import Histories
from p5jax.memory.neighbours import tied

USERS_PER_CHUNK = 512
DECIMALS = 6  # of dense scores, of which the rest is rounding

# Scores [users, I] for histories; what a sparse array does not store is unscored.
Scorer = Callable[[Histories], sp.csr_array | np.ndarray]


class Scores(Protocol):
    """Scores of some users, [users, I]."""

    def ranks(self, targets: np.ndarray) -> np.ndarray:
        """Count the items before each user's target, [users]."""

    def at(self, items: np.ndarray) -> np.ndarray:
        """Return the scores of each user's items: [users, C] -> [users, C]."""

    def best(self, row: int, k: int, *, unscored: bool) -> np.ndarray:
        """Return at most k items of one user, best first; of equals the lower index first.

        unscored: fill the list with what is unscored.
        """


def scores_of(
    scorer: Scorer, cases: Histories, popularity: np.ndarray
) -> Iterator[tuple[slice, Scores]]:
    """Yield (users, their scores) for chunks of users; popularity [I] orders equal items."""
    ascending = np.sort(popularity)  # once: it takes as long as the catalogue is large
    more_popular = len(popularity) - np.searchsorted(ascending, popularity, side="right")
    for start in range(0, len(cases.first), USERS_PER_CHUNK):
        part = cases.part(start, start + USERS_PER_CHUNK)
        history, found = part.history(len(popularity)), scorer(part)
        users = slice(start, start + len(part.first))
        if isinstance(found, np.ndarray):
            yield users, DenseScores.of(found, history, popularity)
        else:
            values = sp.csr_array(found)
            yield users, SparseScores.of(values, history, popularity, more_popular)


def target_ranks(scorer: Scorer, cases: Histories, popularity: np.ndarray) -> np.ndarray:
    """Return the number of items before each user's target, float64 [U]."""
    targets = cases.targets()
    ranks = np.zeros(len(targets))
    for users, scores in scores_of(scorer, cases, popularity):
        ranks[users] = scores.ranks(targets[users])
    return ranks


@dataclass(frozen=True)
class DenseScores:
    """Scores of every item, -inf where the user has it."""

    values: np.ndarray
    popularity: np.ndarray

    @staticmethod
    def of(values: np.ndarray, history: sp.csr_array, popularity: np.ndarray) -> DenseScores:
        """Leave out the history and round, so that what is equal but for rounding ties."""
        values = np.round(values, DECIMALS)
        values[history.nonzero()] = -np.inf
        return DenseScores(values, popularity)

    def ranks(self, targets: np.ndarray) -> np.ndarray:
        own = self.at(targets[:, None])
        level = self.popularity > self.popularity[targets][:, None]
        better = (self.values > own) | ((self.values == own) & level)
        return np.asarray(better.sum(axis=1))

    def at(self, items: np.ndarray) -> np.ndarray:
        return np.take_along_axis(self.values, items, 1)

    def best(self, row: int, k: int, *, unscored: bool) -> np.ndarray:
        values = self.values[row]
        k = min(k, len(values))
        least = np.partition(values, len(values) - k)[-k]
        items = np.flatnonzero((values >= least) & (values > -np.inf))
        order = np.lexsort((-self.popularity[items], -values[items]))
        return np.asarray(items[order][:k])


@dataclass(frozen=True)
class SparseScores:
    """Scores of some items; the others are unscored, and come after those in one tie.

    more_popular [I]: how many items are more popular than each.
    """

    values: sp.csr_array
    history: sp.csr_array
    popularity: np.ndarray
    more_popular: np.ndarray

    @staticmethod
    def of(
        values: sp.csr_array,
        history: sp.csr_array,
        popularity: np.ndarray,
        more_popular: np.ndarray,
    ) -> SparseScores:
        """Leave out the history and round, so that sums of the same terms tie in any order."""
        values = values - values.multiply(history)
        values.eliminate_zeros()
        values.data = tied(values.data)
        values.sort_indices()
        return SparseScores(values, history, popularity, more_popular)

    def ranks(self, targets: np.ndarray) -> np.ndarray:
        scores, history, popularity = self.values, self.history, self.popularity
        n = len(targets)
        own = self.at(targets[:, None])[:, 0]
        count = popularity[targets]
        rows = np.repeat(np.arange(n), np.diff(scores.indptr))
        more_popular = popularity[scores.indices] > count[rows]
        above = scores.data > own[rows]
        level = scores.data == own[rows]
        better = np.bincount(rows, weights=above | (level & more_popular), minlength=n)
        # An unscored target also loses to the more popular of the unscored items it competes with.
        unscored = self.more_popular[targets]
        unscored = unscored - np.bincount(rows, weights=more_popular, minlength=n).astype(np.int64)
        rows = np.repeat(np.arange(n), np.diff(history.indptr))
        known = popularity[history.indices] > count[rows]
        unscored -= np.bincount(rows, weights=known, minlength=n).astype(np.int64)
        return np.asarray(better + np.where(own == 0, unscored, 0))

    def at(self, items: np.ndarray) -> np.ndarray:
        rows = np.repeat(np.arange(len(items)), items.shape[1])
        return np.asarray(self.values[rows, items.ravel()]).reshape(items.shape)

    def best(self, row: int, k: int, *, unscored: bool) -> np.ndarray:
        part = slice(self.values.indptr[row], self.values.indptr[row + 1])
        items, values = self.values.indices[part], self.values.data[part]
        order = np.lexsort((items, -self.popularity[items], -values))
        best = np.asarray(items[order][:k])
        if len(best) == k or not unscored:
            return best
        known = self.history.indices[self.history.indptr[row] : self.history.indptr[row + 1]]
        taken = np.concatenate([known, best])
        ahead = self._by_popularity[: k + len(taken)]
        return np.concatenate([best, ahead[~np.isin(ahead, taken)]])[:k]

    @cached_property
    def _by_popularity(self) -> np.ndarray:
        return np.argsort(-self.popularity, kind="stable")
