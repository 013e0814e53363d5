"""Figures of any rows of a per-user table: of all that were evaluated, or of some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from p5jax.data.cold import is_warm
from p5jax.data.dataset import Dataset
from p5jax.evaluation.intervals import Interval, mean_interval, mean_intervals
from p5jax.evaluation.metrics import (
    coverage,
    rating_metrics,
    ratings_from_text,
    text_metrics,
)
from p5jax.evaluation.results import WARM, FamilyResult

PAIR = ("user", "item")
WARM_COLUMN = "warm"
RANKED = (*PAIR, "rank", "top", WARM_COLUMN)  # the columns of a ranking beside its metrics


def figures(kind: str, table: pa.Table, num_items: int) -> dict[str, Interval]:
    """Return the metrics of a kind of result, with intervals, from its per-user table [N].

    num_items: of the catalogue, whose share in the lists is a metric.
    """
    if kind == "rating":
        return _ratings(table)
    if kind == "text":
        return text_metrics(table["prediction"].to_pylist(), table["reference"].to_pylist())
    if kind == "choice":
        return {"accuracy": mean_interval(table["accuracy"].to_numpy(), shares=True)}
    names = [name for name in table.column_names if name not in RANKED]
    found = mean_intervals({name: table[name].to_numpy() for name in names}, shares=True)
    if kind == "catalogue":
        found["coverage"] = coverage(table["top"].to_pylist(), num_items)
    return found


def _ratings(table: pa.Table) -> dict[str, Interval]:
    """RMSE and MAE and, where texts were read as numbers, also those of these."""
    answers = table["reference"].to_numpy()
    found = rating_metrics(table["prediction"].to_numpy(), answers)
    if "text" in table.column_names:
        said = rating_metrics(table["prediction greedy"].to_numpy(), answers)
        found |= {f"{name} greedy": value for name, value in said.items()}
        _, readable = ratings_from_text(table["text"].to_pylist(), fallback=0.0)
        found["unparsable"] = mean_interval(~readable, shares=True)
    return found


def of_rows(result: FamilyResult, table: pa.Table, num_items: int) -> FamilyResult:
    """Return a result for the rows of another table of its columns."""
    metrics = figures(result.kind, table, num_items)
    return replace(result, n=table.num_rows, metrics=metrics, per_user=table)


def with_warmth(result: FamilyResult, dataset: Dataset) -> FamilyResult:
    """Return a result with a column that says of which pairs training knows the user and item."""
    warm = is_warm(dataset, *(result.per_user[name].to_numpy() for name in PAIR))
    column = pa.array(np.asarray(warm, np.int8))
    return replace(result, per_user=result.per_user.append_column(WARM_COLUMN, column))


def warm_results(results: Sequence[FamilyResult], num_items: int) -> list[FamilyResult]:
    """Return each result that has the column again for its warm pairs alone, if some are cold."""
    found = []
    for result in results:
        if WARM_COLUMN not in result.per_user.column_names:
            continue
        warm = result.per_user[WARM_COLUMN].to_numpy().astype(bool)
        if warm.any() and not warm.all():
            named = replace(result, prompt_id=f"{result.prompt_id}{WARM}", examples=[])
            found.append(of_rows(named, result.per_user.filter(pa.array(warm)), num_items))
    return found
