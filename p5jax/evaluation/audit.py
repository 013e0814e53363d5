"""The audit of a dataset: its leaks, and the zero-parameter baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow.compute as pc

from p5jax.core.progress import Report, print_progress
from p5jax.data.cold import is_warm
from p5jax.data.dataset import SPLITS, TRAIN, Dataset
from p5jax.data.held_out import with_other_held_out
from p5jax.data.leaks import broken_tables, find_leaks, leaks_beside
from p5jax.data.schemes import is_leaky
from p5jax.evaluation.baselines.ranking import BASELINES, RankingBaselines
from p5jax.evaluation.fitted import FITTED, Fit, find_fitted_leaks
from p5jax.evaluation.rank_metrics import ranking_table
from p5jax.memory.histories import Histories


def audit(
    dataset: Dataset,
    report: Report = print_progress,
    more: Mapping[str, Fit] = MappingProxyType({}),
) -> dict[str, Any]:
    """Check a dataset and measure the ranking baselines on its test split.

    What was fitted is fitted again beside held-out rows that differ in every field: what FITTED
    names, and `more`, which other rooms learn.
    Returns a JSON-able dict: leaks (lines, empty when sound), fitted (the names of what was made
    again), item_ids (scheme, leaky), baselines
    (name -> ranking table, None where it has no meaning or the tables are too broken to rank),
    left_out (name -> why it has no meaning here),
    information (what is worth knowing and no leak), counts and n, the number of test users. Where
    time is cut and some are cold, also warm: n and baselines of those of whom training knows user
    and item.
    """
    broken, fitted = broken_tables(dataset), {**FITTED, **more}
    if broken:
        leaks = find_leaks(dataset)
    else:
        other = with_other_held_out(dataset)
        leaks = leaks_beside(dataset, other) or find_fitted_leaks(dataset, other, fitted)
    tables: dict[str, dict[str, Any] | None] = dict.fromkeys(BASELINES)
    information: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    users = np.arange(0) if broken else dataset.held_out_users("test")
    warm = np.ones(len(users), bool)
    warm_tables = dict(tables)
    if not broken:
        if dataset.cuts:
            warm = is_warm(dataset, users, Histories.of(dataset, "test", users).targets())
        ranking = RankingBaselines(dataset, report)
        left_out = ranking.left_out
        for name in ranking.names:
            ranks = ranking.ranks(name, "test", users)
            tables[name] = ranking_table(ranks, dataset.num_items)
            warm_tables[name] = ranking_table(ranks[warm], dataset.num_items)
        information["id_arithmetic_in_training"] = (
            _in_training(ranking) if tables["id_arithmetic"] else None
        )
        information["held_out_reviews_repeating_a_training_review"] = _repeated_texts(dataset)
    result = {
        "leaks": leaks,
        "fitted": ["stars", "item ids", "explanations", *fitted],
        "item_ids": _ids(dataset),
        "baselines": tables,
        "left_out": left_out,
        "information": information,
        "counts": _counts(dataset),
        "n": len(users),
    }
    if not warm.all():
        result["warm"] = {"n": int(warm.sum()), "baselines": warm_tables}
    return result


def _ids(dataset: Dataset) -> dict[str, Any]:
    """The scheme of the ids, whether it is leaky, and where given vectors come from."""
    entry = {"scheme": dataset.id_scheme, "leaky": is_leaky(dataset.id_scheme)}
    given = dataset.manifest["item_ids"].get("vectors")
    return entry | ({"vectors": given} if given else {})


def _in_training(ranking: RankingBaselines) -> dict[str, Any] | None:
    """How id arithmetic ranks the last training items; None where no user has two."""
    ranks = ranking.ranks("id_arithmetic", "train")
    return ranking_table(ranks, ranking.dataset.num_items) if len(ranks) else None


def _repeated_texts(dataset: Dataset) -> dict[str, int]:
    """Count held-out reviews whose words the same user also wrote in training of another item."""
    reviews = dataset.reviews
    result = {}
    split = reviews["split"].to_numpy()
    users = reviews["user"].to_numpy()
    for column in ("headline", "text"):
        texts = reviews[column].to_pylist()
        rows = list(zip(users.tolist(), texts, split.tolist(), strict=True))
        training = {(user, text) for user, text, part in rows if part == TRAIN and text}
        result[column] = sum((user, text) in training for user, text, part in rows if part != TRAIN)
    return result


def _counts(dataset: Dataset) -> dict[str, int]:
    counts = {"users": dataset.num_users, "items": dataset.num_items}
    sentences = dataset.reviews.filter(pc.is_valid(dataset.reviews["sentence"]))
    tables = {
        "interactions": dataset.interactions,
        "reviews": dataset.reviews,
        "explanations": sentences,
    }
    for name, table in tables.items():
        counts[name] = table.num_rows
        for code, part in enumerate(SPLITS):
            counts[f"{name}_{part}"] = pc.sum(pc.equal(table["split"], code)).as_py() or 0
    return counts


def format_audit(result: dict[str, Any]) -> str:
    """Return an audit as text: leaks first, then ids, baselines and information."""
    leaks, ids, counts = result["leaks"], result["item_ids"], result["counts"]
    lines = [f"leaks: {len(leaks) or 'none'}", *(f"  LEAK {leak}" for leak in leaks)]
    if not leaks:
        again = ", ".join(result["fitted"])
        lines.append(f"the same beside other held-out rows, changed in every field: {again}")
    leaky = "leaky: may hold the held-out order" if ids["leaky"] else "not leaky"
    lines.append(f"item ids: {ids['scheme']} ({leaky})")
    if "vectors" in ids:
        lines.append(
            f"item vectors: given by {ids['vectors']}; what they were made from is not known"
        )
    for table in ("interactions", "reviews", "explanations"):
        parts = ", ".join(f"{part} {counts[f'{table}_{part}']:,}" for part in SPLITS)
        lines.append(f"{table}: {counts[table]:,} ({parts})")
    lines += ["", f"baselines, test split, whole catalogue, n = {result['n']:,} users"]
    lines += _format_baselines(result["baselines"], result)
    if "warm" in result:
        warm = result["warm"]["n"]
        lines += [
            "",
            f"the same for the {warm:,} of them whose user and item training knows; the other"
            f" {result['n'] - warm:,} are cold",
            *_format_baselines(result["warm"]["baselines"], result, in_training=False),
        ]
    repeated = result["information"].get("held_out_reviews_repeating_a_training_review")
    if repeated and any(repeated.values()):
        lines += [
            "",
            "no leak, but known: held-out reviews that repeat a training review of the same user "
            f"word for word: {repeated['headline']:,} headlines, {repeated['text']:,} texts",
        ]
    return "\n".join(lines)


def _format_baselines(
    baselines: dict[str, Any], result: dict[str, Any], in_training: bool = True
) -> list[str]:
    """A table of baselines; in_training: with the row that shows what ids follow by themselves."""
    metrics = ("HR@5", "NDCG@5", "HR@10", "NDCG@10")
    width = max(map(len, baselines)) + 2
    heading = f"  {'':<{width}}" + "".join(f"{name:>9}" for name in metrics) + "   95 % of HR@10"
    lines, rows = [heading], []
    for name, table in baselines.items():
        rows.append((name, table))
        if in_training and name == "id_arithmetic" and table is not None:
            rows.append(("  in training", result["information"]["id_arithmetic_in_training"]))
    for name, table in rows:
        if table is None:
            why = result["left_out"].get(name, "")
            lines.append(f"  {name:<{width}}" + f"{'-':>9}" * len(metrics) + f"   {why}".rstrip())
            continue
        cells = "".join(
            f"{table[metric]:>9.4f}" if metric in table else f"{'-':>9}" for metric in metrics
        )
        low, high = table["intervals"].get("HR@10", (math.nan, math.nan))
        ends = "-" if math.isnan(low) else f"{low:.4f} - {high:.4f}"
        lines.append(f"  {name:<{width}}{cells}   {ends}")
    return lines
