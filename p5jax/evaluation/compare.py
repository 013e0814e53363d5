"""Two runs on the same examples: paired bootstrap over users."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from p5jax.core.errors import UserError
from p5jax.core.text_table import aligned
from p5jax.evaluation.intervals import interval_and_p_value, resampled_means
from p5jax.evaluation.results import FamilyResult, has_leaky_ids, load_results

RESAMPLES = 5000
_MEANS = (
    *("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10", "MRR"),
    *("ROUGE-1", "ROUGE-2", "ROUGE-L", "sentence BLEU-2", "sentence BLEU-4", "accuracy"),
)
# Metric -> the per-user column and what is done with its mean.
_METRICS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    **{name: (name, np.asarray) for name in _MEANS},
    "RMSE": ("squared_error", np.sqrt),
    "MAE": ("absolute_error", np.asarray),
    "RMSE greedy": ("squared_error greedy", np.sqrt),
}


@dataclass(frozen=True)
class Difference:
    """One metric of one prompt in two runs: b minus a, its 95 % interval and two-sided p-value."""

    family: str
    prompt_id: str
    metric: str
    n: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float


def compare_results(
    results_a: Sequence[FamilyResult], results_b: Sequence[FamilyResult], *, seed: int = 0
) -> list[Difference]:
    """Compare every metric of every prompt that both runs were evaluated with.

    UserError when they have no prompt in common, or a common prompt has other examples.
    """
    theirs = {(r.family, r.prompt_id, r.kind): r for r in results_b if not r.baseline}
    found: list[Difference] = []
    for one in results_a:
        other = theirs.get((one.family, one.prompt_id, one.kind))
        if one.baseline or other is None:
            continue
        table_a, table_b = _aligned(one, other)
        found += _differences(one, table_a, table_b, seed)
    if not found:
        raise UserError("the two runs have no evaluated prompt in common; evaluate both alike")
    return found


def _differences(
    result: FamilyResult, table_a: pa.Table, table_b: pa.Table, seed: int
) -> list[Difference]:
    """Every metric of a prompt; the users of a resample are the same for both runs and all."""
    both = set(table_a.column_names) & set(table_b.column_names)
    metrics = [
        (name, column, transform)
        for name, (column, transform) in _METRICS.items()
        if column in both
    ]
    values_NxF = np.stack(
        [table[column].to_numpy() for _, column, _ in metrics for table in (table_a, table_b)],
        axis=1,
    ).astype(np.float64)
    means_RxF = resampled_means(values_NxF, resamples=RESAMPLES, seed=seed)
    found = []
    for position, (metric, _, transform) in enumerate(metrics):
        columns = slice(2 * position, 2 * position + 2)
        a, b = (float(mean) for mean in transform(values_NxF[:, columns].mean(axis=0)))
        resampled = transform(means_RxF[:, columns])  # [R, 2]
        low, high, p_value = interval_and_p_value(resampled[:, 1] - resampled[:, 0])
        found.append(
            Difference(
                family=result.family,
                prompt_id=result.prompt_id,
                metric=metric,
                n=len(values_NxF),
                a=a,
                b=b,
                difference=b - a,
                low=low,
                high=high,
                p_value=p_value,
            )
        )
    return found


def _aligned(one: FamilyResult, other: FamilyResult) -> tuple[pa.Table, pa.Table]:
    """Both per-user tables in the order of (user, item)."""
    if one.candidates != other.candidates:
        raise UserError(
            f"{one.family} prompt {one.prompt_id}: found rankings of {one.candidates} and of "
            f"{other.candidates} candidates, expected equally many"
        )
    keys = [("user", "ascending"), ("item", "ascending")]
    a, b = one.per_user.sort_by(keys), other.per_user.sort_by(keys)
    pairs_a, pairs_b = a.select(["user", "item"]), b.select(["user", "item"])
    if not pairs_a.equals(pairs_b):
        users_a, users_b = set(a["user"].to_pylist()), set(b["user"].to_pylist())
        raise UserError(
            f"{one.family} prompt {one.prompt_id}: found {a.num_rows} and {b.num_rows} examples of "
            f"{len(users_a)} and {len(users_b)} users, {len(users_a & users_b)} in both; expected "
            "the same examples (same dataset, split and limit)"
        )
    return a, b


def compare_runs(
    run_a: str | os.PathLike[str],
    run_b: str | os.PathLike[str],
    split: str = "test",
    *,
    seed: int = 0,
) -> list[Difference]:
    """Compare two run folders by what `p5jax evaluate` wrote for a split."""
    results = [load_results(Path(run) / "evaluation" / split) for run in (run_a, run_b)]
    return compare_results(results[0], results[1], seed=seed)


def leaky_runs(
    run_a: str | os.PathLike[str], run_b: str | os.PathLike[str], split: str = "test"
) -> list[str]:
    """Which of two evaluated run folders have leaky item ids."""
    runs = dict.fromkeys(os.fspath(run) for run in (run_a, run_b))
    return [run for run in runs if has_leaky_ids(Path(run) / "evaluation" / split)]


def format_comparison(differences: Sequence[Difference]) -> str:
    """The differences as a text table, b minus a."""
    rows = [("family", "prompt", "metric", "n", "A", "B", "B - A", "95 % interval", "p")]
    for d in differences:
        interval = f"[{d.low:+.4f}, {d.high:+.4f}]"
        rows.append(
            (
                *(d.family, d.prompt_id, d.metric, str(d.n), f"{d.a:.4f}", f"{d.b:.4f}"),
                *(f"{d.difference:+.4f}", interval, f"{d.p_value:.4f}"),
            )
        )
    return "\n".join(aligned(rows, left=3))
