"""The feature words that training reviews name of items."""

from __future__ import annotations

from collections import Counter

from p5jax.data.dataset import TRAIN, Dataset


class Features:
    """How often training reviews name each feature, of each item and of all."""

    def __init__(self, dataset: Dataset) -> None:
        self._of_items: dict[int, Counter[str]] = {}
        self._of_all = Counter[str]()
        columns = (dataset.reviews[name].to_pylist() for name in ("split", "item", "feature"))
        for split, item, feature in zip(*columns, strict=True):
            if split == TRAIN and feature:
                self._of_items.setdefault(item, Counter())[feature] += 1
                self._of_all[feature] += 1

    def of(self, item: int) -> str | None:
        """Return an item's most frequent one, or that of all; of equals the first by alphabet.

        None where no training review names one.
        """
        counts = self._of_items.get(item, self._of_all)
        return min(counts, key=lambda name: (-counts[name], name), default=None)
