"""Where items that a model was not trained on stand in its lists, beside counting baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from p5jax.core.text_table import aligned
from p5jax.evaluation.baselines.words import WordVectors
from p5jax.evaluation.intervals import Interval, format_value, mean_intervals
from p5jax.evaluation.rank_metrics import LIST_LENGTH, hit_rate, mrr, ndcg
from p5jax.memory.histories import Histories
from p5jax.memory.neighbours import RECENT, damped, pairs_of, recent_items

_USERS = 256  # at a time
_TIES = 0  # the seed of the order of items with equal scores
SHOWN = (f"HR@{LIST_LENGTH}", f"NDCG@{LIST_LENGTH}", "MRR")


@dataclass(frozen=True, eq=False)
class Asked:
    """Users whose next item is known: the items each has, and the target, in a catalogue's indices.

    users: keys [U]; histories: int [n] each; targets: int [U].
    """

    users: Sequence[str]
    histories: Sequence[np.ndarray]
    targets: np.ndarray

    def part(self, chosen: np.ndarray) -> Asked:
        """Return some of them."""
        return Asked(
            [self.users[row] for row in chosen],
            [self.histories[row] for row in chosen],
            self.targets[chosen],
        )


@dataclass(frozen=True, eq=False)
class Measured:
    """The ranks [U] of the targets, from 0, np.inf where not in a list of ten, by one method.

    what: which items are ranked for whom, in words. interactions: how many of each cold item were
    told, None where none of them are in the catalogue.
    """

    what: str
    interactions: int | None
    method: str
    asked: Asked
    ranks: np.ndarray

    @property
    def metrics(self) -> dict[str, Interval]:
        """HR@10, NDCG@10 and MRR, of a list of ten, each with its 95 % interval."""
        ranks = np.where(self.ranks < LIST_LENGTH, self.ranks, np.inf)
        values = hit_rate(ranks, LIST_LENGTH), ndcg(ranks, LIST_LENGTH), mrr(ranks)
        return mean_intervals(dict(zip(SHOWN, values, strict=True)), shares=True)


def baseline_ranks(
    asked: Asked,
    sequences: Sequence[np.ndarray],
    texts: Sequence[str],
    candidates: np.ndarray | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of each baseline and the ranks [U] that it gives the targets.

    sequences: what is known of users, in time order, nothing held out. texts: of the catalogue's
    items [I]. candidates: the items that are ranked, by default all. An item of the history is not
    ranked. Items with equal scores stand in a random order, the same for all baselines.
    """
    count = len(texts)
    told = [sequence for sequence in sequences if len(sequence)]
    seen = np.concatenate([np.zeros(0, np.int64), *told]).astype(np.int64)
    counts = np.bincount(seen, minlength=count)
    near = damped(pairs_of([np.zeros(0, np.int64), *told], count), counts)
    words = WordVectors(texts)(texts)
    scorers: Mapping[str, Callable[[sp.csr_array], np.ndarray]] = {
        "popularity": lambda recent: np.tile(counts.astype(np.float64), (recent.shape[0], 1)),
        "co-occurrence": lambda recent: sp.csr_array(recent @ near).toarray(),
        "text": lambda recent: sp.csr_array(recent @ words @ words.T).toarray(),
    }
    for name, score in scorers.items():
        ranks = np.zeros(len(asked.targets))
        for start in range(0, len(ranks), _USERS):
            rows = slice(start, start + _USERS)
            cases = Histories.given(asked.histories[rows])
            scores = score(recent_items(cases, RECENT, count))
            scores[cases.history(count).nonzero()] = -np.inf
            ranks[rows] = _ranks(np.round(scores, 9), asked.targets[rows], candidates)
        yield name, ranks


def _ranks(scores: np.ndarray, targets: np.ndarray, candidates: np.ndarray | None) -> np.ndarray:
    """How many items [U, I] are before each target; of equal scores some random order decides."""
    order = np.random.default_rng(_TIES).permutation(scores.shape[1])
    own = scores[np.arange(len(targets)), targets][:, None]
    before = (scores > own) | ((scores == own) & (order < order[targets][:, None]))
    ranked = np.ones(scores.shape[1], bool)
    if candidates is not None:
        ranked[:] = False
        ranked[candidates] = True
    return np.asarray((before & ranked).sum(axis=1))


def format_measured(rows: Sequence[Measured]) -> str:
    """The rows as text, a table for each question and number of interactions told."""
    tables: dict[tuple[str, int | None], list[Measured]] = {}
    for row in rows:
        tables.setdefault((row.what, row.interactions), []).append(row)
    found = []
    for (what, told), members in tables.items():
        lines: list[tuple[str, ...]] = [("", "n", *SHOWN)]
        for member in members:
            cells = [format_value(member.metrics[name]) for name in SHOWN]
            lines.append((member.method, str(len(member.ranks)), *(value for value, _ in cells)))
            lines.append(("", "", *(ends for _, ends in cells)))
        known = "" if told is None else f", {told} interactions of each cold item told"
        found.append("\n  ".join([f"{what}{known}", *aligned(lines)]))
    return "\n\n".join(found)
