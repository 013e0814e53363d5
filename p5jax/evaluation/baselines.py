"""Recommenders without parameters, to be shown beside every model.

All are made from training interactions only and ranked under the leave-one-out protocol: what the
user already has is left out of the ranking, ties and unscored items fall by training popularity,
and a target's rank is the number of items strictly better than it.

popularity: training count. id_arithmetic: the numbers that follow the highest and the last id of
the history. markov: how often an item followed the last one. co_occurrence: neighbours of the last
20 items, by distance and recency.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from p5jax.core.errors import UserError, nearest
from p5jax.data.dataset import Dataset
from p5jax.evaluation.rank_metrics import LIST_LENGTH
from p5jax.memory.histories import (
    BaselineScorer,
    Histories,
    neighbours,
    training_counts,
)
from p5jax.memory.neighbours import RECENT, damped, pairs, recent_items, tied

USERS_PER_CHUNK = 512


@dataclass(frozen=True)
class Baseline:
    """One baseline.

    scorer: from a dataset to scores for histories. numbers: needs ids that are numbers. lists:
    recommends only what it scores, at most LIST_LENGTH items; nothing else has a rank.
    """

    scorer: Callable[[Dataset], BaselineScorer]
    numbers: bool = False
    lists: bool = False


def baseline_named(name: str) -> Baseline:
    """Return a baseline; UserError naming the nearest when there is none of that name."""
    if name not in BASELINES:
        raise UserError(
            f"baseline {name!r}: expected one of {', '.join(BASELINES)}{nearest(name, BASELINES)}"
        )
    return BASELINES[name]


def _popularity(dataset: Dataset) -> BaselineScorer:
    """Score nothing, so that the tie rule alone decides."""
    return lambda cases: sp.csr_array((len(cases.first), dataset.num_items), dtype=np.float64)


def _markov(dataset: Dataset) -> BaselineScorer:
    follows = neighbours(dataset, 1, lambda distance: (1.0, 0.0))
    return lambda cases: recent_items(cases, 1, dataset.num_items) @ follows


def _co_occurrence(dataset: Dataset) -> BaselineScorer:
    near = damped(pairs(dataset), training_counts(dataset))
    return lambda cases: recent_items(cases, RECENT, dataset.num_items) @ near


def _id_arithmetic(dataset: Dataset) -> BaselineScorer:
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
        return sp.csr_array((values, (rows, columns)), shape=(len(lists), dataset.num_items))

    return score


BASELINES: Mapping[str, Baseline] = {
    "popularity": Baseline(_popularity),
    "id_arithmetic": Baseline(_id_arithmetic, numbers=True, lists=True),
    "markov": Baseline(_markov),
    "co_occurrence": Baseline(_co_occurrence),
}


def _names(dataset: Dataset) -> tuple[str, ...]:
    """The baselines that make sense for the dataset: some need ids that are numbers."""
    numeric = all(text.isdecimal() for text in dataset.item_ids)
    return tuple(name for name, each in BASELINES.items() if numeric or not each.numbers)


def _chunks(
    dataset: Dataset, cases: Histories, scorer: BaselineScorer
) -> Iterator[tuple[slice, Histories, sp.csr_array, sp.csr_array]]:
    """Yield (users, their cases, scores without the history, history) for chunks of users."""
    for start in range(0, len(cases.first), USERS_PER_CHUNK):
        part = cases.part(start, start + USERS_PER_CHUNK)
        history = part.history(dataset.num_items)
        scores = sp.csr_array(scorer(part))
        scores = scores - scores.multiply(history)
        scores.eliminate_zeros()
        scores.data = tied(scores.data)
        scores.sort_indices()
        yield slice(start, start + len(part.first)), part, scores, history


def _rank_chunk(
    scores: sp.csr_array, history: sp.csr_array, targets: np.ndarray, popularity: np.ndarray
) -> np.ndarray:
    """Count the items strictly better than each target, [users]."""
    n = len(targets)
    own = np.asarray(scores[np.arange(n), targets]).ravel()
    count = popularity[targets]
    rows = np.repeat(np.arange(n), np.diff(scores.indptr))
    more_popular = popularity[scores.indices] > count[rows]
    above = scores.data > own[rows]
    level = scores.data == own[rows]
    better = np.bincount(rows, weights=above | (level & more_popular), minlength=n)
    # An unscored target also loses to the more popular of the unscored items it competes with.
    ascending = np.sort(popularity)
    unscored = len(popularity) - np.searchsorted(ascending, count, side="right")
    unscored -= np.bincount(rows, weights=more_popular, minlength=n).astype(np.int64)
    rows = np.repeat(np.arange(n), np.diff(history.indptr))
    known = popularity[history.indices] > count[rows]
    unscored -= np.bincount(rows, weights=known, minlength=n).astype(np.int64)
    return better + np.where(own == 0, unscored, 0)


def ranks_of(dataset: Dataset, name: str, split: str) -> np.ndarray:
    """Return one baseline's rank of each user's target over the whole catalogue, float64 [U].

    np.inf where the baseline does not rank the target (id arithmetic beyond its ten). The split
    "train" asks for the last training item (counts and pairs then contain the answer: only id
    arithmetic is meaningful there) of the users that have two, so its result may be shorter.
    """
    popularity = training_counts(dataset)
    cases = Histories.of(dataset, split)
    if split == "train":
        some = cases.last > cases.first
        cases = Histories(cases.items, cases.first[some], cases.last[some])
    targets = cases.targets()
    ranks = np.zeros(len(targets))
    baseline = baseline_named(name)
    for users, _, scores, history in _chunks(dataset, cases, baseline.scorer(dataset)):
        ranks[users] = _rank_chunk(scores, history, targets[users], popularity)
        if baseline.lists:
            n = len(targets[users])
            listed = np.asarray(scores[np.arange(n), targets[users]]).ravel() > 0
            ranks[users] = np.where(listed, ranks[users], np.inf)
    return ranks


def baseline_ranks(dataset: Dataset, split: str = "test") -> dict[str, np.ndarray]:
    """Return every meaningful baseline's rank of each user's held-out item, name -> float64 [U]."""
    return {name: ranks_of(dataset, name, split) for name in _names(dataset)}


def candidate_ranks(dataset: Dataset, split: str, candidates: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rank of the target within given lists, for the baselines that rank all items.

    Args:
        candidates: items [U, C], each row holding the user's target and negatives.

    The target loses to an equal candidate that stands before it: with 100 candidates many are
    equally popular, and the target's random position then decides fairly. ValueError when a row
    lacks its target.
    """
    popularity = training_counts(dataset)
    cases = Histories.of(dataset, split)
    targets = cases.targets()
    is_target = candidates == targets[:, None]
    if not is_target.any(axis=1).all():
        user = int(np.flatnonzero(~is_target.any(axis=1))[0])
        raise ValueError(f"candidates of user {user}: item {targets[user]}, the target, is missing")
    position = is_target.argmax(axis=1)[:, None]  # [U, 1]
    earlier = np.arange(candidates.shape[1]) < position
    counts = popularity[candidates]
    own_count = np.take_along_axis(counts, position, 1)
    tie_lost = (counts > own_count) | ((counts == own_count) & earlier)
    result = {}
    for name, baseline in BASELINES.items():
        if baseline.lists:
            continue
        ranks = np.zeros(len(targets))
        for users, _, scores, _ in _chunks(dataset, cases, baseline.scorer(dataset)):
            listed = candidates[users]
            rows = np.repeat(np.arange(len(listed)), listed.shape[1])
            values = np.asarray(scores[rows, listed.ravel()]).reshape(listed.shape)
            own = np.take_along_axis(values, position[users], 1)
            ranks[users] = ((values > own) | ((values == own) & tie_lost[users])).sum(axis=1)
        result[name] = ranks
    return result


def top_k(dataset: Dataset, split: str, name: str, k: int) -> np.ndarray:
    """Return a baseline's k best items per user, int32 [U, k], -1 where it has no more.

    Equal items stand by training popularity, then by index; nothing of the history appears.
    """
    baseline, popularity = baseline_named(name), training_counts(dataset)
    cases = Histories.of(dataset, split)
    by_popularity = np.argsort(-popularity, kind="stable")
    result = np.full((len(cases.first), k), -1, np.int32)
    for users, _, scores, history in _chunks(dataset, cases, baseline.scorer(dataset)):
        rows = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))
        order = np.lexsort((scores.indices, -popularity[scores.indices], -scores.data, rows))
        columns = scores.indices[order]
        for row in range(scores.shape[0]):
            best = columns[scores.indptr[row] : scores.indptr[row + 1]][:k]
            if len(best) < k and not baseline.lists:
                known = history.indices[history.indptr[row] : history.indptr[row + 1]]
                taken = np.concatenate([known, best])
                ahead = by_popularity[: k + len(taken)]
                best = np.concatenate([best, ahead[~np.isin(ahead, taken)]])[:k]
            result[users.start + row, : len(best)] = best
    return result
