"""Recommenders that no model has to be trained for, on what is held out.

All are made from training interactions only: what the user already has is left out of the ranking,
ties and unscored items fall by training popularity, and a target's rank is the number of items
strictly better than it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from p5jax.core.errors import UserError, nearest
from p5jax.core.progress import Report
from p5jax.data.dataset import Dataset
from p5jax.evaluation.baselines import counts, ease, item_text
from p5jax.evaluation.baselines.scores import Scorer, scores_of
from p5jax.memory.histories import Histories, training_counts


@dataclass(frozen=True)
class Baseline:
    """One baseline.

    fit: from a dataset, and what is told of a choice, to scores for histories. lack: why it has no
    meaning for a dataset, or None. lists: recommends only what it scores; nothing else has a rank.
    """

    fit: Callable[[Dataset, Report], Scorer]
    lack: Callable[[Dataset], str | None] = lambda dataset: None
    lists: bool = False


BASELINES: Mapping[str, Baseline] = {
    "popularity": Baseline(lambda dataset, _: counts.popularity(dataset)),
    "id_arithmetic": Baseline(
        lambda dataset, _: counts.id_arithmetic(dataset), counts.lacks_numbers, lists=True
    ),
    "markov": Baseline(lambda dataset, _: counts.markov(dataset)),
    "co_occurrence": Baseline(lambda dataset, _: counts.co_occurrence(dataset)),
    "co_occurrence_and_text": Baseline(item_text.co_occurrence_and_text, item_text.lacks_text),
    "ease": Baseline(ease.ease, ease.too_large),
}


Users = Sequence[int] | np.ndarray | None  # None: all who have a target in the split


class RankingBaselines:
    """The baselines that have a meaning for a dataset, each fitted once, when it is first asked.

    left_out: name -> why it has none. `report` is told of these, and of choices on validation.
    """

    def __init__(self, dataset: Dataset, report: Report):
        self.dataset, self.popularity, self._report = dataset, training_counts(dataset), report
        lacks = {name: baseline.lack(dataset) for name, baseline in BASELINES.items()}
        self.left_out = {name: lack for name, lack in lacks.items() if lack is not None}
        self._fitted: dict[str, Scorer] = {}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of those that have a meaning; the others are reported, once."""
        for name, lack in self.left_out.items():
            self._report(f"baseline {name}: left out, as {lack}")
        return tuple(name for name in BASELINES if name not in self.left_out)

    def scorer(self, name: str) -> Scorer:
        """Return a baseline's scorer; UserError when there is none of that name or meaning."""
        if name not in BASELINES:
            near = nearest(name, BASELINES)
            raise UserError(f"baseline {name!r}: expected one of {', '.join(BASELINES)}{near}")
        if name in self.left_out:
            raise UserError(f"baseline {name!r}: not for this dataset, as {self.left_out[name]}")
        if name not in self._fitted:
            self._fitted[name] = BASELINES[name].fit(self.dataset, self._report)
        return self._fitted[name]

    def ranks(self, name: str, split: str, users: Users = None) -> np.ndarray:
        """Return a baseline's rank of each user's target over the whole catalogue, float64 [U].

        np.inf where the baseline does not rank the target (id arithmetic beyond its ten). The
        split "train" asks for the last training item (counts and pairs then contain the answer:
        only id arithmetic is meaningful there) of the users that have two.
        """
        cases = Histories.of(self.dataset, split, users)
        targets = cases.targets()
        ranks = np.zeros(len(targets))
        for part, scores in scores_of(self.scorer(name), cases, self.popularity):
            ranks[part] = scores.ranks(targets[part])
            if BASELINES[name].lists:
                listed = scores.at(targets[part][:, None])[:, 0] > 0
                ranks[part] = np.where(listed, ranks[part], np.inf)
        return ranks

    def candidate_ranks(
        self, split: str, candidates: np.ndarray, users: Users = None
    ) -> dict[str, np.ndarray]:
        """Return the ranks of the targets within given lists, for baselines that rank all items.

        Args:
            candidates: items [U, C], each row holding the user's target and negatives.

        The target loses to an equal candidate that stands before it: with 100 candidates many are
        equally popular, and the target's random position then decides fairly. ValueError when a
        row lacks its target.
        """
        cases = Histories.of(self.dataset, split, users)
        targets = cases.targets()
        is_target = candidates == targets[:, None]
        if not is_target.any(axis=1).all():
            user = int(np.flatnonzero(~is_target.any(axis=1))[0])
            found = f"item {targets[user]}, the target, is missing"
            raise ValueError(f"candidates of user {user}: {found}")
        position = is_target.argmax(axis=1)[:, None]  # [U, 1]
        earlier = np.arange(candidates.shape[1]) < position
        counted = self.popularity[candidates]
        own_count = np.take_along_axis(counted, position, 1)
        tie_lost = (counted > own_count) | ((counted == own_count) & earlier)
        result = {}
        for name in self.names:
            if BASELINES[name].lists:
                continue
            ranks = np.zeros(len(targets))
            for part, scores in scores_of(self.scorer(name), cases, self.popularity):
                values = scores.at(candidates[part])
                own = np.take_along_axis(values, position[part], 1)
                ranks[part] = ((values > own) | ((values == own) & tie_lost[part])).sum(axis=1)
            result[name] = ranks
        return result

    def top_k(self, name: str, split: str, k: int, users: Users = None) -> np.ndarray:
        """Return a baseline's k best items per user, int32 [U, k], -1 where it has no more.

        Equal items stand by training popularity, then by index; nothing of the history appears.
        """
        cases = Histories.of(self.dataset, split, users)
        result = np.full((len(cases.first), k), -1, np.int32)
        for part, scores in scores_of(self.scorer(name), cases, self.popularity):
            for row in range(part.stop - part.start):
                best = scores.best(row, k, unscored=not BASELINES[name].lists)
                result[part.start + row, : len(best)] = best
        return result
