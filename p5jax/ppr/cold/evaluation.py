"""Cold-start evaluation: AUC, hit rate and NDCG of test cases, averaged for each user.

Each case is ranked among its frozen candidates and among the whole catalogue without its history.
Equal scores count as if in random order: AUC takes half of them (Fawcett 2006), hit rate and NDCG
their mean over the target's possible ranks (McSherry and Najork 2008).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from p5jax.core.errors import UserError, nearest
from p5jax.evaluation.rank_metrics import hit_rate, ndcg
from p5jax.ppr.backbone.catalogue import Scorer
from p5jax.ppr.cold.protocol import Cases, ColdStart, is_of_kind

CUTS = (5, 10, 20, 50)
METRICS = ("AUC", *(f"{name}@{k}" for k in CUTS for name in ("HR", "NDCG")))
RANKINGS = ("candidates", "catalogue")
POPULARITY, EARLY_POPULARITY = BASELINES = ("popularity", "early popularity")
BATCH_SIZE = 256
KEYS = ("method", "kind", "ranking", "seed", "user")


def count_scorer(counts: np.ndarray) -> Scorer:
    """Return the scorer that gives every user an item's count, from counts [I]."""

    def score(users: np.ndarray, items: np.ndarray, candidates: np.ndarray | None) -> np.ndarray:
        if candidates is None:
            return np.broadcast_to(counts, (len(users), len(counts)))
        chosen: np.ndarray = counts[candidates]
        return chosen

    return score


def baselines(split: ColdStart) -> dict[str, Scorer]:
    """Return the baselines without parameters, from the events of warm and tuning users.

    popularity counts all of them; early popularity only each user's first events, as many as
    a cold user has: what newcomers choose is often not what is popular later.
    """
    counted = (split.counts(), split.counts(first=split.longest + 1))
    return {name: count_scorer(counts) for name, counts in zip(BASELINES, counted, strict=True)}


def evaluate_cold(
    split: ColdStart,
    scorers: Mapping[str, Scorer],
    *,
    kinds: Sequence[str] | None = None,
    users: np.ndarray | None = None,
    rankings: Sequence[str] = RANKINGS,
    batch_size: int = BATCH_SIZE,
) -> pa.Table:
    """Evaluate methods, and the BASELINES, on the test users' cases.

    Returns one row per method, kind, ranking, seed (the split's) and user, with the user's number
    of cases and means of METRICS over them; tables of several seeds are concatenated.

    Args:
        scorers: name -> scorer; it sees batches of `batch_size` cases only.
        kinds: of cases; default all that the split has. users: default the test users.
        rankings: of RANKINGS.

    UserError for unknown kinds or rankings, for kinds without a case and for scores that are
    nan.
    """
    for ranking in rankings:
        if ranking not in RANKINGS:
            near = nearest(ranking, RANKINGS)
            raise UserError(f"ranking {ranking!r}: expected {' or '.join(RANKINGS)}{near}")
    wanted = split.kinds if kinds is None else tuple(kinds)
    cases = split.cases("joint", users)
    members = {kind: is_of_kind(kind, cases.lengths) for kind in wanted}
    for kind, member in members.items():
        if not member.any():
            raise UserError(f"cases: found no {kind} one, expected {', '.join(split.kinds)}")
    asked = np.any(list(members.values()), axis=0)
    cases, members = cases.part(asked), {kind: m[asked] for kind, m in members.items()}
    tables = []
    for method, scorer in {**scorers, **baselines(split)}.items():
        for ranking in rankings:
            metrics = rank_cases(scorer, cases, split.num_items, ranking, batch_size, method)
            for kind, member in members.items():
                labels = {"method": method, "kind": kind, "ranking": ranking}
                table = _per_user(cases.users[member], {n: v[member] for n, v in metrics.items()})
                tables.append(_labelled(table, labels, split.config.seed))
    return pa.concat_tables(tables)


def rank_cases(
    scorer: Scorer,
    cases: Cases,
    num_items: int,
    ranking: str,
    batch_size: int = BATCH_SIZE,
    method: str = "scorer",
) -> dict[str, np.ndarray]:
    """Return METRICS of each case, name -> float64 [N]; UserError when there are none."""
    if not len(cases):
        raise UserError(f"cases: found no {cases.kind} one to rank, expected one or more")
    counted = []
    for start in range(0, len(cases), batch_size):
        chosen = np.arange(start, start + batch_size)
        kept = int((chosen < len(cases)).sum())
        batch = cases.part(np.minimum(chosen, len(cases) - 1))  # filled up: one compiled shape
        listed = batch.candidates if ranking == "candidates" else None
        scores = np.array(scorer(batch.users, batch.items_NxS, listed), np.float64)
        shape = (batch_size, num_items if listed is None else listed.shape[1])
        if scores.shape != shape:
            raise ValueError(f"{method}: found scores of shape {scores.shape}, expected {shape}")
        if np.isnan(scores).any():
            raise UserError(f"{method}: found nan among its scores; did the training diverge?")
        place = batch.targets if listed is None else np.zeros(batch_size, np.int32)
        excluded = _history_mask(batch, num_items) if listed is None else None
        counted.append(_counts(scores, place, excluded)[:, :kept])
    better, ties, others = np.concatenate(counted, axis=1)
    return _metrics(better, ties, others)


def _history_mask(cases: Cases, num_items: int) -> np.ndarray:
    """Which items [N, I] each case's user already has."""
    mask = np.zeros((len(cases), 1 + num_items), bool)
    mask[np.arange(len(cases))[:, None], cases.items_NxS] = True
    return mask[:, 1:]


def _counts(scores: np.ndarray, place: np.ndarray, excluded: np.ndarray | None) -> np.ndarray:
    """Count the other items above, level with and all that compete with each target, [3, N]."""
    rows = np.arange(len(scores))
    own = scores[rows, place][:, None]
    competes = np.ones(scores.shape, bool) if excluded is None else ~excluded
    competes[rows, place] = False
    better = ((scores > own) & competes).sum(axis=1)
    ties = ((scores == own) & competes).sum(axis=1)
    return np.stack([better, ties, competes.sum(axis=1)])


def _metrics(better: np.ndarray, ties: np.ndarray, others: np.ndarray) -> dict[str, np.ndarray]:
    """METRICS of targets below `better` of `others` items and level with `ties`, all [N]."""
    columns = {"AUC": (others - better - ties / 2) / others}
    positions = np.arange(int((better + ties).max(initial=0)) + 1)
    for k in CUTS:
        for name, metric in ((f"HR@{k}", hit_rate), (f"NDCG@{k}", ndcg)):
            sums = np.concatenate([[0.0], np.cumsum(metric(positions, k))])
            columns[name] = (sums[better + ties + 1] - sums[better]) / (ties + 1)
    return columns


def _per_user(users: np.ndarray, metrics: dict[str, np.ndarray]) -> pa.Table:
    """Means over each user's cases."""
    who, row, count = np.unique(users, return_inverse=True, return_counts=True)
    columns = {"user": pa.array(who, pa.int32()), "cases": pa.array(count, pa.int32())}
    for name in METRICS:
        columns[name] = pa.array(np.bincount(row, weights=metrics[name]) / count)
    return pa.table(columns)


def _labelled(table: pa.Table, labels: dict[str, str], seed: int) -> pa.Table:
    columns: dict[str, pa.Array] = {
        name: pa.array([value] * table.num_rows, pa.string()) for name, value in labels.items()
    }
    columns["seed"] = pa.array(np.full(table.num_rows, seed, np.int64))
    return pa.table({**columns, **{name: table[name] for name in table.column_names}})
