"""Training batches of user sequences: windows, negatives, an exact state.

Everything is a function of the seed, the epoch and the position in it. One epoch takes every user
once; a batch holds users whose windows fit one width, which keeps padding small.
Letters: B batch, S width, N negatives, I items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from p5jax.core.errors import UserError, shown
from p5jax.core.settings import COUNT, SIZE, check
from p5jax.data.dataset import Dataset
from p5jax.pipeline.batching import Batch
from p5jax.pipeline.epochs import EpochIterator, LazyBatches


@dataclass(frozen=True)
class SequenceConfig:
    """How sequences become batches.

    batch_size: users of a batch, over all devices. widths: of the batches, ascending, in addition
    to the backbone's max_history; more widths mean less padding and more programs to compile.
    negatives: items sampled for each position, none of which the user has in training.
    """

    batch_size: int = 256
    widths: tuple[int, ...] = (8, 16)
    negatives: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, batch_size=SIZE, widths=SIZE, negatives=COUNT)
        if list(self.widths) != sorted(set(self.widths)):
            raise UserError(
                f"SequenceConfig.widths: found {shown(self.widths)}, expected ascending numbers"
            )


def right_aligned(histories: Sequence[np.ndarray], width: int) -> np.ndarray:
    """The last `width` items of each history as int32 [N, width]: item + 1, padded on the left."""
    rows = np.zeros((len(histories), width), np.int32)
    for row, history in zip(rows, histories, strict=True):
        kept = history[-width:]
        row[width - len(kept) :] = np.asarray(kept) + 1
    return rows


def users_fingerprint(users: np.ndarray) -> str:
    """Return the fingerprint of a set of users, in any order."""
    numbers = np.sort(np.asarray(users)).astype("<i8")
    return hashlib.sha256(numbers.tobytes()).hexdigest()[:16]


class SequenceIterator(EpochIterator):
    """An endless iterator of a process's rows of the batches of some users' training items.

    What is held out of a user's interactions is never read. A batch is
    {"items", "targets": int32 [B, S], "negatives": int32 [B, S, N] where N > 0}: a position's
    target is the item that follows, all numbered from 1 (item + 1), right-aligned, 0 for padding.
    A user with more than max_history + 1 training items has a random window of them in each epoch,
    one with fewer than two is left out, having nothing to predict; the last batch of a width is
    filled up with empty rows. UserError when no user is left, when nothing can be a negative, or
    when batch_size does not divide over the processes.
    """

    def __init__(
        self,
        dataset: Dataset,
        users: np.ndarray,
        config: SequenceConfig,
        max_history: int,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        super().__init__(config.batch_size, process_index, process_count)
        users = np.unique(np.asarray(users, np.int64))
        counts = dataset.training_lengths[users]
        self.users = users[counts >= 2]
        if not len(self.users):
            raise UserError(f"{dataset.path}: found no user with two training interactions")
        self._counts = counts[counts >= 2]
        self._starts = dataset.offsets[self.users]
        self._items, self._num_items = dataset.sequence_items, dataset.num_items
        self.config, self.max_history = config, max_history
        self._widths = np.array([*(w for w in config.widths if w < max_history), max_history])
        self._known = self._pairs() if config.negatives else np.zeros(0, np.int64)

    def epoch(self, number: int) -> Sequence[Batch]:
        """Return the batches of an epoch, in order."""
        plan, ends = self._plan(number)

        def make(position: int) -> Batch:
            rows = plan[position]
            batch = self._batch(rows, ends[rows])
            if self.config.negatives:
                rng = np.random.default_rng([self.config.seed, number, position])
                batch["negatives"] = self._negatives(rng, rows, batch["items"].shape[1])
            return batch

        return LazyBatches(len(plan), make)

    def identity(self) -> dict[str, Any]:
        """Return what decides the batches."""
        c = self.config
        return {
            "users": users_fingerprint(self.users),
            "batch_size": c.batch_size,
            "widths": self._widths.tolist(),
            "negatives": c.negatives,
            "seed": c.seed,
        }

    def _buckets(self) -> np.ndarray:
        """The width, by its number, that each user's window fits, [U]."""
        inputs = np.minimum(self._counts - 1, self.max_history)
        buckets: np.ndarray = np.searchsorted(self._widths, inputs)
        return buckets

    def _plan(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The users of each batch, by their row in self.users, and where all users' windows end:
        one past the last target, [U]."""
        rng = np.random.default_rng([self.config.seed, epoch])
        spare = np.maximum(self._counts - 1 - self.max_history, 0)
        ends = self._starts + self._counts - rng.integers(0, spare + 1)
        order, buckets = rng.permutation(len(self.users)), self._buckets()
        plan = []
        for bucket in range(len(self._widths)):
            members = order[buckets[order] == bucket]
            size = self.config.batch_size
            plan += [members[start : start + size] for start in range(0, len(members), size)]
        return [plan[number] for number in rng.permutation(len(plan))], ends

    def _batch(self, rows: np.ndarray, ends: np.ndarray) -> Batch:
        """The items and targets of some users whose windows end at `ends`."""
        buckets = self._buckets()
        width = int(self._widths[buckets[rows[0]]])
        first = np.maximum(self._starts[rows], ends - width - 1)
        position = ends[:, None] - 1 - width + np.arange(width)  # of the input in each column
        real = position >= first[:, None]
        position = np.where(real, position, 0)
        shape = (self.config.batch_size, width)
        batch = {name: np.zeros(shape, np.int32) for name in ("items", "targets")}
        batch["items"][: len(rows)] = np.where(real, self._items[position] + 1, 0)
        batch["targets"][: len(rows)] = np.where(real, self._items[position + real] + 1, 0)
        return batch

    def _pairs(self) -> np.ndarray:
        """The (user row, item) pairs of training as ascending numbers."""
        total = int(self._counts.sum())
        begins = np.repeat(np.cumsum(self._counts) - self._counts, self._counts)
        position = np.repeat(self._starts, self._counts) + np.arange(total) - begins
        rows = np.repeat(np.arange(len(self.users)), self._counts)
        pairs = np.unique(rows * self._num_items + self._items[position])
        if np.bincount(pairs // self._num_items).max() == self._num_items:
            raise UserError("negatives: found a user who has every item, expected some to be left")
        return pairs

    def _negatives(self, rng: np.random.Generator, rows: np.ndarray, width: int) -> np.ndarray:
        """Sample evenly from the items that a user does not have in training: [B, S, N], from 1."""
        shape = (self.config.batch_size, width, self.config.negatives)
        drawn = rng.integers(0, self._num_items, shape)
        user = np.zeros(shape, np.int64) + np.resize(rows, len(drawn))[:, None, None]
        wrong = self._is_known(user, drawn)
        while wrong.any():
            drawn[wrong] = rng.integers(0, self._num_items, int(wrong.sum()))
            wrong[wrong] = self._is_known(user[wrong], drawn[wrong])
        return (drawn + 1).astype(np.int32)

    def _is_known(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        pair = user * self._num_items + item
        position = np.searchsorted(self._known, pair)
        known: np.ndarray = self._known[np.minimum(position, len(self._known) - 1)] == pair
        return known
