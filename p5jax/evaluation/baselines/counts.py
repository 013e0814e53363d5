"""Recommenders that count training interactions, and one that counts on the ids.

popularity: training count. id_arithmetic: the numbers that follow the highest and the last id of
the history. markov: how often an item followed the last one. co_occurrence: neighbours of the last
20 items, by distance and recency.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp

from p5jax.data.dataset import Dataset
from p5jax.evaluation.baselines.scores import Scorer
from p5jax.evaluation.rank_metrics import LIST_LENGTH
from p5jax.memory.histories import Histories, neighbours, training_counts
from p5jax.memory.neighbours import RECENT, damped, pairs, recent_items


def popularity(dataset: Dataset) -> Scorer:
    """Score nothing, so that the tie rule alone decides."""
    num_items = dataset.num_items
    return lambda cases: sp.csr_array((len(cases.first), num_items), dtype=np.float64)


def markov(dataset: Dataset) -> Scorer:
    """Score items by how often they followed the last one."""
    follows = neighbours(dataset, 1, lambda distance: (1.0, 0.0))
    return lambda cases: recent_items(cases, 1, len(follows.indptr) - 1) @ follows


def co_occurrence(dataset: Dataset) -> Scorer:
    """Score items by their nearness to the last ones, which count the less the older they are."""
    near = damped(pairs(dataset), training_counts(dataset))
    return lambda cases: recent_items(cases, RECENT, len(near.indptr) - 1) @ near


def lacks_numbers(dataset: Dataset) -> str | None:
    """Return why there is no arithmetic with a dataset's ids, or None."""
    numeric = all(text.isdecimal() for text in dataset.item_ids)
    return None if numeric else "its item ids are not numbers"


def id_arithmetic(dataset: Dataset) -> Scorer:
    """Score the list m+1, l+1, m+2, l+2, … of highest id m and last id l by its order."""
    numbers = [int(text) for text in dataset.item_ids]
    item_of = {number: item for item, number in enumerate(numbers)}
    ascending = sorted(item_of)

    def following(start: int, known: set[int]) -> Iterator[int]:
        """Yield the next numbers above `start` that are items and not known."""
        found = 0
        for position in range(bisect_right(ascending, start), len(ascending)):
            number = ascending[position]
            if number not in known:
                yield number
                found += 1
                if found == LIST_LENGTH:
                    return

    def recommended(history: np.ndarray) -> list[int]:
        known = {numbers[item] for item in history}
        steps = []
        for turn, start in enumerate((max(known), numbers[history[-1]])):
            steps += [(number - start, turn, number) for number in following(start, known)]
        chosen = dict.fromkeys(item_of[number] for _, _, number in sorted(steps))
        return list(chosen)[:LIST_LENGTH]

    def score(cases: Histories) -> sp.csr_array:
        lists = [
            recommended(cases.items[first:last]) if last > first else []
            for first, last in zip(cases.first.tolist(), cases.last.tolist(), strict=True)
        ]
        rows = np.repeat(np.arange(len(lists)), [len(chosen) for chosen in lists])
        columns = np.array([item for chosen in lists for item in chosen], np.int64)
        values = [float(LIST_LENGTH - n) for chosen in lists for n in range(len(chosen))]
        return sp.csr_array((values, (rows, columns)), shape=(len(lists), len(numbers)))

    return score
