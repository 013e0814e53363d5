"""Per-user results of cold-start methods over seeds: means, paired differences, table, Parquet.

A user's value is the mean over the seeds in which the user is tested, so that a user in two seeds'
tests counts once; intervals and paired tests are over users.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5jax.core.errors import UserError, nearest
from p5jax.core.tables import read_parquet, write_parquet
from p5jax.core.text_table import aligned
from p5jax.evaluation.compare import RESAMPLES, Difference
from p5jax.evaluation.intervals import (
    Interval,
    format_value,
    interval_and_p_value,
    mean_intervals,
    resampled_means,
)
from p5jax.ppr.cold.evaluation import KEYS, METRICS

COLD_TABLE_METRICS = ("AUC", "HR@5", "NDCG@5", "HR@10", "NDCG@10")
RANKING_TITLES = {"candidates": "among frozen negatives", "catalogue": "among the whole catalogue"}

_TYPES = {"seed": pa.int64(), "user": pa.int32()}
_SCHEMA = pa.schema(
    [
        *(pa.field(name, _TYPES.get(name, pa.string()), nullable=False) for name in KEYS),
        pa.field("cases", pa.int32(), nullable=False),
        *(pa.field(name, pa.float64(), nullable=False) for name in METRICS),
    ]
)


@dataclass(frozen=True)
class ColdRow:
    """One method on the cases of one kind and ranking.

    users: distinct ones; cases: of all seeds. metrics: name -> mean over users with its 95 %
    interval; spread: name -> standard deviation of the seeds' means, empty with one seed;
    differences: from the reference, empty in its own row.
    """

    method: str
    kind: str
    ranking: str
    seeds: int
    users: int
    cases: int
    metrics: dict[str, Interval]
    spread: dict[str, float]
    differences: dict[str, Difference]


@dataclass(frozen=True)
class _Values:
    """A method's rows of one kind and ranking, sorted by (seed, user)."""

    seed: np.ndarray
    user: np.ndarray
    cases: int
    values_NxF: np.ndarray

    def over_users(self) -> np.ndarray:
        """Each user's mean over seeds, [distinct users, metrics]."""
        return _means(self.user, self.values_NxF)

    def spread(self) -> dict[str, float]:
        """The standard deviation of the seeds' means."""
        means = _means(self.seed, self.values_NxF)
        if len(means) < 2:
            return {}
        return dict(zip(METRICS, means.std(axis=0, ddof=1).tolist(), strict=True))


def summarise(table: pa.Table, reference: str, *, seed: int = 0) -> list[ColdRow]:
    """Return a row per kind, ranking and method of `evaluate_cold`'s tables, the reference first.

    Differences are method minus reference, with a paired bootstrap over users; `seed` is the
    bootstrap's. UserError when there is no such method, or methods have other users or seeds.
    """
    methods = pc.unique(table["method"]).to_pylist()
    if reference not in methods:
        known = ", ".join(methods)
        raise UserError(f"method {reference!r}: found {known}{nearest(reference, methods)}")
    rows = []
    for kind, ranking, part in _parts(table):
        found = {name: _values(part, name, kind) for name in _methods(part)}
        if reference not in found:
            raise UserError(f"method {reference!r}: found no {kind} results, {ranking}")
        differences = _differences(found, reference, f"{kind}, {ranking}", seed)
        for name in sorted(found, key=lambda name: name != reference):
            own = found[name]
            users = own.over_users()
            rows.append(
                ColdRow(
                    method=name,
                    kind=kind,
                    ranking=ranking,
                    seeds=len(np.unique(own.seed)),
                    users=len(users),
                    cases=own.cases,
                    metrics=mean_intervals(dict(zip(METRICS, users.T, strict=True)), shares=True),
                    spread=own.spread(),
                    differences=differences.get(name, {}),
                )
            )
    return rows


def _parts(table: pa.Table) -> Iterator[tuple[str, str, pa.Table]]:
    """The rows of each kind and ranking, in order of appearance."""
    pairs = zip(table["kind"].to_pylist(), table["ranking"].to_pylist(), strict=True)
    for kind, ranking in dict.fromkeys(pairs):
        chosen = pc.and_(pc.equal(table["kind"], kind), pc.equal(table["ranking"], ranking))
        yield kind, ranking, table.filter(chosen)


def _methods(part: pa.Table) -> list[str]:
    methods: list[str] = pc.unique(part["method"]).to_pylist()
    return methods


def _values(part: pa.Table, method: str, kind: str) -> _Values:
    own = part.filter(pc.equal(part["method"], method))
    own = own.sort_by([("seed", "ascending"), ("user", "ascending")])
    seed, user = own["seed"].to_numpy(), own["user"].to_numpy()
    repeated = (np.diff(seed) == 0) & (np.diff(user) == 0)
    if repeated.any():
        raise UserError(
            f"{method}, {kind}: found {repeated.sum()} users twice in a seed, e.g. user "
            f"{user[1:][repeated][0]} in seed {seed[1:][repeated][0]}; expected each once"
        )
    values = np.stack([own[name].to_numpy() for name in METRICS], axis=1)
    return _Values(seed, user, int(pc.sum(own["cases"]).as_py()), values)


def _differences(
    found: dict[str, _Values], reference: str, where: str, seed: int
) -> dict[str, dict[str, Difference]]:
    """Each other method minus the reference; a resample has the same users for all of them."""
    base = found[reference]
    others = [name for name in found if name != reference]
    for name in others:
        same = np.array_equal(found[name].user, base.user)
        if not same or not np.array_equal(found[name].seed, base.seed):
            raise UserError(
                f"{name} and {reference}, {where}: found {len(found[name].user)} and "
                f"{len(base.user)} results; expected the same users of the same seeds"
            )
    if not others:
        return {}
    users_NxF = base.over_users()
    paired = [found[name].over_users() - users_NxF for name in others]
    means_RxF = resampled_means(np.concatenate(paired, axis=1), resamples=RESAMPLES, seed=seed)
    result = {}
    for place, name in enumerate(others):
        drawn = means_RxF[:, place * len(METRICS) : (place + 1) * len(METRICS)]
        a, d = users_NxF.mean(axis=0).tolist(), paired[place].mean(axis=0).tolist()
        result[name] = {
            metric: Difference(
                where, name, metric, len(users_NxF), a[m], a[m] + d[m], d[m],
                *interval_and_p_value(drawn[:, m]),
            )
            for m, metric in enumerate(METRICS)
        }  # fmt: skip
    return result


def _means(group: np.ndarray, values_NxF: np.ndarray) -> np.ndarray:
    """Means of the rows of each group, [groups, F]."""
    _, row, count = np.unique(group, return_inverse=True, return_counts=True)
    sums = np.zeros((len(count), values_NxF.shape[1]))
    np.add.at(sums, row, values_NxF)
    return sums / count[:, None]


def format_cold_rows(rows: Sequence[ColdRow], metrics: Sequence[str] = COLD_TABLE_METRICS) -> str:
    """The rows as text: a table per kind and ranking, means and below them their 95 % intervals.

    Then come its difference from the reference (95 % interval, two-sided p) and, with
    several seeds, the standard deviation of the seeds' means.
    """
    tables: dict[tuple[str, str], list[ColdRow]] = {}
    for row in rows:
        tables.setdefault((row.kind, row.ranking), []).append(row)
    return "\n\n".join(_format_table(members, metrics) for members in tables.values())


def _format_table(rows: Sequence[ColdRow], metrics: Sequence[str]) -> str:
    first = rows[0]
    cells: list[tuple[str, ...]] = [("", *metrics)]
    for row in rows:
        values, ends = zip(*(format_value(row.metrics[name]) for name in metrics), strict=True)
        cells += [(row.method, *values), ("", *ends)]
        if row.differences:
            found = [row.differences[name] for name in metrics]
            changes = (
                f"{d.difference:+.4f} [{d.low:+.4f}, {d.high:+.4f}] p {d.p_value:.4f}"
                for d in found
            )
            cells.append((f"  - {first.method}", *changes))
        if row.spread:
            cells.append(("  sd over seeds", *(f"{row.spread[name]:.4f}" for name in metrics)))
    seeds = f"{first.seeds} seed{'s' * (first.seeds > 1)}"
    title = f"{first.kind}, {RANKING_TITLES[first.ranking]}"
    lines = [f"{title}: {first.cases} cases of {first.users} users, {seeds}"]
    return "\n  ".join([*lines, *aligned(cells)])


def write_per_user(path: str | os.PathLike[str], table: pa.Table) -> None:
    """Write per-user results as Parquet, under another name first, then renamed to `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(path, table)


def read_per_user(path: str | os.PathLike[str]) -> pa.Table:
    """Read `evaluate_cold`'s table as written; UserError when it is absent or something else."""
    return read_parquet(path, _SCHEMA, "per-user results of p5jax ppr evaluate")
