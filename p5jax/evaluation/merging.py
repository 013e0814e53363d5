"""Shards of an evaluation, made by independent jobs, and the results of all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from p5jax.core.errors import UserError
from p5jax.core.folder import refuse_difference
from p5jax.core.shard import Shard, each_once
from p5jax.evaluation.figures import PAIR, of_rows, warm_results
from p5jax.evaluation.keeping import keep_results, reserve
from p5jax.evaluation.results import (
    EXAMPLES_SHOWN,
    SUMMARY,
    FamilyResult,
    load_results,
    read_summary,
)


@dataclass(frozen=True)
class _Job:
    """What one job wrote: its folder and shard, what it is of, and the results by their files."""

    folder: Path
    shard: Shard
    header: dict[str, Any]
    num_items: int
    results: dict[str, FamilyResult]


def merge_evaluations(
    folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> list[FamilyResult]:
    """Return, and write to `out`, the results that one job would have written.

    The rows of all shards are put together and the figures are computed from them. folders: one of
    each shard, in any order. UserError, before anything is written, when a shard is missing, there
    twice, of another evaluation or has other prompts.
    """
    jobs = [_job(Path(folder)) for folder in folders]
    first, out = jobs[0], Path(out)
    for job in jobs:
        where = job.folder / SUMMARY
        refuse_difference(where, job.header, first.header)
        refuse_difference(where, {"shards": job.shard.count}, {"shards": first.shard.count})
        if job.folder.resolve() == out.resolve():
            raise UserError(f"{out}: found shard {job.shard}, expected another folder to write")
    order = each_once([job.folder for job in jobs], [job.shard for job in jobs], "p5jax evaluate")
    jobs = [jobs[place] for place in order]
    for job in jobs:
        for other in jobs:
            lacking = sorted(other.results.keys() - job.results.keys())
            if lacking:
                raise UserError(
                    f"{job.folder}: lacks {lacking[0]}, which {other.folder} has, expected shards"
                    " of the same prompts"
                )
    reserve(out, first.header)
    results = [
        _joined([job.results[file] for job in jobs], job.num_items) for file in first.results
    ]
    results += warm_results(results, first.num_items)
    keep_results(out, results, first.header)
    return results


def _job(folder: Path) -> _Job:
    header = read_summary(folder)
    shard, items = header.pop("shard", None), header.pop("items", None)
    if not isinstance(shard, str) or type(items) is not int:
        raise UserError(
            f"{folder / SUMMARY}: found no shard, expected what p5jax evaluate --shard writes"
        )
    for name in ("results", "figures"):
        header.pop(name, None)
    results = {result.file: result for result in load_results(folder)}
    return _Job(folder, Shard.read(shard), header, items, results)


def _joined(parts: Sequence[FamilyResult], num_items: int) -> FamilyResult:
    """One result of the rows of all parts, in the order of user and item, as one job has them."""
    first = parts[0]
    for part in parts:
        if not part.per_user.schema.equals(first.per_user.schema):
            raise UserError(
                f"{first.file}: found columns {', '.join(part.per_user.column_names)}, expected"
                f" {', '.join(first.per_user.column_names)} in all shards"
            )
    table = pa.concat_tables([part.per_user for part in parts])
    table = table.sort_by([(name, "ascending") for name in PAIR]).combine_chunks()
    examples = [example for part in parts for example in part.examples][:EXAMPLES_SHOWN]
    return of_rows(replace(first, examples=examples), table, num_items)
