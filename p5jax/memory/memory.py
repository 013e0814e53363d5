"""A memory of training interactions and item texts that says which items come next.

After kNN language models (Khandelwal et al. 2020): what is near the last items of a history gets a
probability of its own, which is mixed with the model's. What is remembered is looked up, not
learnt, so new interactions enter it without training.
Letters: U users, M neighbours of a user, E items left out, I items.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from p5jax.data.dataset import Dataset
from p5jax.data.item_vectors import item_texts
from p5jax.inference.mixing import Beside
from p5jax.memory.histories import Histories, training_counts
from p5jax.memory.neighbours import (
    RECENT,
    damped,
    near_texts,
    pairs,
    pairs_of,
    recent_items,
    shrunk,
    tied,
    top_of_rows,
)
from p5jax.memory.settings import MemorySettings

NEIGHBOURS = 100  # of a user, by sequences and as many by texts: what the model scores beside
_USERS = 512  # at a time


class Neighbours(NamedTuple):
    """Items [U, M] near a history, -1 for none, and how near: by sequences and by texts [U, M].

    A user's items are distinct and may all be recommended; nearness is 0 where there is none.
    """

    items: np.ndarray
    by_sequence: np.ndarray
    by_text: np.ndarray

    def shares(self, settings: MemorySettings) -> np.ndarray:
        """Return each neighbour's probability [U, M]: rows sum to 1, or to 0 without neighbours."""
        power = 1 / settings.temperature
        by_sequence, by_text = (_normalised(each, power) for each in self[1:])
        return _normalised((1 - settings.text) * by_sequence + settings.text * by_text)


def _normalised(scores: np.ndarray, power: float = 1.0) -> np.ndarray:
    """Scores [U, M] by each row's largest, raised to a power, as shares of their sum."""
    largest = scores.max(axis=1, keepdims=True)
    raised: np.ndarray = (scores / np.where(largest > 0, largest, 1)) ** power
    total = raised.sum(axis=1, keepdims=True)
    return raised / np.where(total > 0, total, 1)


@dataclass(frozen=True, eq=False)
class Memory:
    """What is remembered.

    counts [I]: interactions with each item. sums [I, I]: see memory.neighbours.pairs.
    texts [I, I]: see memory.neighbours.near_texts; None where texts are not asked.
    """

    counts: np.ndarray
    sums: sp.csr_array
    texts: sp.csr_array | None = None
    settings: MemorySettings = field(default_factory=MemorySettings)

    @staticmethod
    def of(
        dataset: Dataset,
        settings: MemorySettings | None = None,
        sums: sp.csr_array | None = None,
    ) -> Memory:
        """Remember a dataset's training interactions, and item texts where the settings ask them.

        Without settings they are asked where there are any. sums: where they are counted already.
        """
        texts = None if settings and not settings.text else near_texts(item_texts(dataset.items))
        if texts is not None and not texts.nnz and not settings:
            texts = None
        counts, sums = training_counts(dataset), pairs(dataset) if sums is None else sums
        return Memory(counts, sums, texts, settings or MemorySettings())

    @cached_property
    def _kinds(self) -> list[sp.csr_array]:
        """How near items are, a matrix [I, I] for each kind: by sequences, by texts."""
        by_sequence = damped(self.sums, self.counts)
        if self.texts is None:
            return [by_sequence]
        return [by_sequence, shrunk(self.texts, self.counts)]

    def remembering(self, sequences: Iterable[Sequence[int]]) -> Memory:
        """Return a memory that also remembers new sequences of item indices, each in time order."""
        listed = [np.asarray(sequence, np.int64) for sequence in sequences]
        if not any(map(len, listed)):
            return self
        count = len(self.counts)
        counts = self.counts + np.bincount(np.concatenate(listed), minlength=count)
        return replace(self, counts=counts, sums=self.sums + pairs_of(listed, count))

    def neighbours(self, cases: Histories, left_out: np.ndarray) -> Neighbours:
        """Return the nearest items to the last ones of histories, but for those left out [U, E].

        At most NEIGHBOURS of each kind: M is NEIGHBOURS, or twice as many with texts.
        """
        parts = []
        for start in range(0, len(cases.first), _USERS):
            recent = recent_items(cases.part(start, start + _USERS), RECENT, len(self.counts))
            alien = left_out[start : start + _USERS]
            parts.append(_together([_nearest(recent @ kind, alien) for kind in self._kinds]))
        return Neighbours(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    def beside(self, cases: Histories, left_out: np.ndarray) -> Beside:
        """Return what the memory says beside the model of histories' next items; see neighbours."""
        found = self.neighbours(cases, left_out)
        return Beside(found.items, found.shares(self.settings), self.settings.mixing)


def _nearest(scores: sp.csr_array, left_out: np.ndarray) -> sp.csr_array:
    """The NEIGHBOURS largest scores of each row, but for items left out [U, E], -1 for none."""
    scores = sp.csr_array(scores)
    rows = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))
    barred = np.zeros((scores.shape[0], scores.shape[1] + 1), bool)
    barred[np.arange(len(left_out))[:, None], left_out] = True  # -1 is the last column
    kept = np.flatnonzero(~barred[rows, scores.indices] & (scores.data > 0))
    rows, items, values = rows[kept], scores.indices[kept], tied(scores.data[kept])
    best = top_of_rows(rows, items, values, NEIGHBOURS)
    return sp.csr_array((values[best], (rows[best], items[best])), shape=scores.shape)


def _together(kinds: list[sp.csr_array]) -> tuple[np.ndarray, ...]:
    """Items [U, M] of all kinds, in the catalogue's order, and each kind's scores of them."""
    users, count = kinds[0].shape[0], NEIGHBOURS * len(kinds)
    union = sp.csr_array(sum(kind.astype(bool).astype(np.int8) for kind in kinds))
    union.sort_indices()
    rows = np.repeat(np.arange(users), np.diff(union.indptr))
    columns = np.arange(len(rows)) - union.indptr[rows]
    items = np.full((users, count), -1, np.int32)
    items[rows, columns] = union.indices
    scores = np.zeros((2, users, count))
    for kind, filled in zip(kinds, scores, strict=False):
        filled[rows, columns] = np.asarray(kind[rows, union.indices]).ravel()
    return (items, *scores)
