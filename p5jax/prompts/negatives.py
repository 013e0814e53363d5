"""Hard negatives: items that others have beside a user's own, as training tells."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from p5jax.data.dataset import Dataset

_TRIES = 4  # walks for each negative wanted


class Neighbours:
    """Samples items near a user's by a walk over training interactions.

    From a random item of the user to a random one of those who have it, and from there to a random
    item of theirs: an item comes up as often as it is had together with the user's, so popular ones
    come often.
    """

    def __init__(self, dataset: Dataset) -> None:
        lengths = dataset.training_lengths
        self._first, self._lengths = dataset.offsets[:-1], lengths
        self._items = dataset.sequence_items
        owners = np.repeat(np.arange(len(lengths)), lengths)
        within = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        items = self._items[self._first[owners] + within]
        self._owners = owners[np.argsort(items, kind="stable")]  # of the first item, the second, …
        counts = np.bincount(items, minlength=dataset.num_items)
        self._ends = np.cumsum(counts)
        self._starts = self._ends - counts

    def sample(
        self,
        rng: np.random.Generator,
        training: np.ndarray,
        excluded: Collection[int],
        count: int,
    ) -> list[int]:
        """Return up to `count` distinct items near the user's `training` items (some), none of them
        in `excluded`: fewer where walks find no more."""
        if not count:
            return []
        items = training[(rng.random(_TRIES * count) * len(training)).astype(int)]
        owners = self._owners[_within(rng, self._starts[items], self._ends[items])]
        first = self._first[owners]
        found = self._items[_within(rng, first, first + self._lengths[owners])]
        near = dict.fromkeys(item for item in found.tolist() if item not in excluded)
        return list(near)[:count]


def _within(rng: np.random.Generator, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """A uniform position of each range [first, last), int [N]."""
    position: np.ndarray = first + (rng.random(len(first)) * (last - first)).astype(int)
    return position
