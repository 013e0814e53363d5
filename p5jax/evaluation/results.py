"""What an evaluation found: metrics, per-user values and examples, on disk and as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import pyarrow as pa

from p5jax.core.documents import read_json
from p5jax.core.errors import UserError
from p5jax.core.files import checksum, replaced_folder
from p5jax.core.folder import as_json
from p5jax.core.kinds import Checksum, Count, FileName, refuse_other
from p5jax.core.tables import read_parquet, write_parquet
from p5jax.core.text_table import aligned
from p5jax.data.families import FAMILIES
from p5jax.evaluation.intervals import Interval, format_value

SUMMARY = "summary.json"
FIGURES = (
    2  # the version of how figures are computed: those of another are not kept beside new ones
)
EXAMPLES_SHOWN = 3  # of each result
WITH_MEMORY = "+memory"  # ends the name of a prompt whose ranking is mixed with the memory's
WARM = "-warm"  # ends the name of a result of the pairs whose user and item training knows
LEAKY_NOTE = "item ids are `released`: leaky, no figure below is a fair one"
# What is ranked, predicted or generated; results of one family and kind share their baselines.
_KINDS = {
    "catalogue": "next item among the whole catalogue, first ten positions",
    "candidates": "the held-out item among {candidates} candidates",
    "yes_no": "the held-out item among {candidates} candidates, asked one by one",
    "rating": "stars",
    "text": "text",
    "choice": "one of two answers",
}
_RANKING = ("HR@1", "HR@5", "NDCG@5", "HR@10", "NDCG@10", "MRR")
# The metrics of each kind that tables show.
SHOWN_METRICS = {
    "catalogue": (*_RANKING, "coverage", "certified"),
    "candidates": _RANKING,
    "yes_no": _RANKING,
    "rating": ("RMSE", "MAE", "RMSE greedy", "MAE greedy", "unparsable"),
    "text": ("BLEU-2", "BLEU-4", "ROUGE-1", "ROUGE-2", "ROUGE-L", "distinct"),
    "choice": ("accuracy",),
}


_Interval = tuple[float | None, float | None, float | None]


class _Row(TypedDict):
    family: str
    prompt: str
    kind: Literal["catalogue", "candidates", "yes_no", "rating", "text", "choice"]
    baseline: bool
    seen: bool | None
    n: Count
    candidates: Count
    metrics: dict[str, _Interval]
    examples: list[tuple[str, str, str]]
    file: FileName
    checksum: NotRequired[Checksum]  # of that file; earlier versions wrote none


class _Document(TypedDict):
    leaky_item_ids: NotRequired[bool]
    results: list[_Row]


# Metrics stand beside the pair, a column each; these are what was said.
_NO_METRICS = {"prediction", "reference", "text", "top"}
_SCHEMA = pa.schema(
    [pa.field("user", pa.int32(), nullable=False), pa.field("item", pa.int32(), nullable=False)]
)


@dataclass(frozen=True)
class FamilyResult:
    """One prompt's evaluation, or one baseline's (then `prompt_id` is the baseline's name).

    seen: in training, None for a model that reads no prompt (then `prompt_id` is its name).
    kind: a key of SHOWN_METRICS. metrics: name -> (value, low, high) with 95 % intervals over n
    examples; low and high are nan where one example allows none. per_user: one row per example.
    examples: (prompt, answer, reference). candidates: how many are ranked, 0 where none are given.
    """

    family: str
    prompt_id: str
    seen: bool | None
    n: int
    metrics: dict[str, Interval]
    per_user: pa.Table
    examples: list[tuple[str, str, str]]
    kind: str
    baseline: bool = False
    candidates: int = 0

    @property
    def file(self) -> str:
        """The name of the per-user file."""
        middle = f"baseline_{self.kind}_" if self.baseline else ""
        return f"{self.family}_{middle}{self.prompt_id}.parquet"

    @property
    def label(self) -> str:
        """What a table calls the row."""
        name, rows = self.prompt_id.removesuffix(WARM), ""
        if name != self.prompt_id:
            rows = ", warm users and items"
        if self.baseline or self.seen is None:
            return f"{name.replace('_', ' ')}{rows}"
        return f"prompt {name} ({'seen' if self.seen else 'unseen'}){rows}"

    @property
    def title(self) -> str:
        """What a table of the results of this family and kind is called."""
        return f"{self.family}: {_KINDS[self.kind].format(candidates=self.candidates)}"


def summary(results: Sequence[FamilyResult]) -> list[dict[str, Any]]:
    """The results as JSON-able objects, without their per-user tables; nan becomes null."""
    return [
        {
            "family": result.family,
            "prompt": result.prompt_id,
            "kind": result.kind,
            "baseline": result.baseline,
            "seen": result.seen,
            "n": result.n,
            "candidates": result.candidates,
            "metrics": {
                name: [None if math.isnan(value) else value for value in values]
                for name, values in result.metrics.items()
            },
            "examples": [list(example) for example in result.examples],
            "file": result.file,
        }
        for result in results
    ]


def write_results(folder: Path, results: Sequence[FamilyResult], header: dict[str, Any]) -> None:
    """Write summary.json and one Parquet file per result into `folder`, replacing it at once.

    Earlier results of the same header (model, dataset, split and settings) that were not computed
    again are kept, and so is a baseline on all the examples of a kept result when the new one is
    on fewer. Results of another header are dropped, so one folder never mixes two models.
    """
    with replaced_folder(folder) as partial:
        merged = _merged(previous_results(folder, header), results)
        for result in merged:
            write_parquet(partial / result.file, result.per_user)
        rows = [{**row, "checksum": checksum(partial / row["file"])} for row in summary(merged)]
        document = {**_versioned(header), "results": rows}
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
        (partial / SUMMARY).write_text(text + "\n", encoding="utf-8")


def _merged(old: Sequence[FamilyResult], new: Sequence[FamilyResult]) -> list[FamilyResult]:
    """The new results and those of the old that they do not replace, sorted."""
    files = {result.file for result in new}
    merged = {result.file: result for result in new}
    kept = {result.file: result for result in old if result.file not in files}
    largest: dict[tuple[str, str], int] = {}
    for result in kept.values():
        if not result.baseline:
            key = result.family, result.kind
            largest[key] = max(result.n, largest.get(key, 0))
    for result in old:
        if result.baseline and result.file in files:
            n = largest.get((result.family, result.kind), 0)
            if merged[result.file].n < result.n <= n:
                kept[result.file] = result
    merged |= kept
    return sorted(merged.values(), key=lambda r: (r.family, r.kind, r.baseline, r.prompt_id))


def previous_results(folder: Path, header: dict[str, Any]) -> list[FamilyResult]:
    """The results in `folder` that new ones of a header are merged with.

    UserError, with what to do, when they cannot be read.
    """
    try:
        if not (folder / SUMMARY).is_file():
            return []
        document, wanted = read_summary(folder), as_json(_versioned(header))
        same = {key: document.get(key) for key in wanted} == wanted
        return load_results(folder) if same else []
    except UserError as error:
        raise UserError(f"{error}; delete {folder} to evaluate without what it holds") from error


def _versioned(header: dict[str, Any]) -> dict[str, Any]:
    return {**header, "figures": FIGURES}


def read_summary(folder: Path) -> dict[str, Any]:
    """Read what `write_results` wrote of what was evaluated and found; UserError without it."""
    file = folder / SUMMARY
    if not file.is_file():
        raise UserError(
            f"{file}: not found, expected the results of p5jax evaluate (without --limit)"
        )
    document: dict[str, Any] = read_json(file, dict[str, Any], "a summary of results")
    own = {name: document[name] for name in _Document.__annotations__ if name in document}
    refuse_other(file, own, _Document)  # beside them is the header of what was evaluated
    return document


def has_leaky_ids(folder: Path) -> bool:
    """Whether the results in `folder` are of a dataset with leaky item ids."""
    return bool(read_summary(folder).get("leaky_item_ids"))


def load_results(folder: Path) -> list[FamilyResult]:
    """Read what `write_results` wrote, in P5's order of families.

    UserError when it is absent, damaged or of another version.
    """
    found = [_read(folder, row) for row in read_summary(folder)["results"]]
    place = {family: number for number, family in enumerate(FAMILIES)}
    return sorted(found, key=lambda result: place.get(result.family, len(place)))


def _read(folder: Path, row: _Row) -> FamilyResult:
    table = read_parquet(folder / row["file"], _SCHEMA, f"the file that {SUMMARY} names")
    if table.num_rows != row["n"]:
        found = f"{table.num_rows} rows, expected the {row['n']} of {SUMMARY}"
        raise UserError(f"{folder / row['file']}: found {found}")
    if row.get("checksum") not in (None, checksum(folder / row["file"])):
        raise UserError(f"{folder / row['file']}: is not as it was written; evaluate again")
    for name, column in zip(table.column_names, table.columns, strict=True):
        kinds = pa.types.is_floating, pa.types.is_integer
        number = any(kind(column.type) for kind in kinds) and not column.null_count
        if name not in _NO_METRICS and not number:
            found = f"column {name!r} of type {column.type}, {column.null_count} values missing"
            raise UserError(f"{folder / row['file']}: found {found}, expected numbers")

    def interval(values: _Interval) -> Interval:
        value, low, high = (math.nan if v is None else v for v in values)
        return value, low, high

    return FamilyResult(
        family=row["family"],
        prompt_id=row["prompt"],
        seen=row["seen"],
        n=row["n"],
        metrics={name: interval(values) for name, values in row["metrics"].items()},
        per_user=table,
        examples=[(e[0], e[1], e[2]) for e in row["examples"]],
        kind=row["kind"],
        baseline=row["baseline"],
        candidates=row["candidates"],
    )


def format_results(results: Sequence[FamilyResult]) -> str:
    """The results as text: a table per family and kind, prompts first, then the baselines.

    Below each value stands its 95 % interval, "-" where there is none.
    """
    tables = []
    for members in by_table(results):
        names = [n for n in SHOWN_METRICS[members[0].kind] if any(n in m.metrics for m in members)]
        rows = [("", "n", *names)]
        for member in members:
            cells = [_cells(member, name) for name in names]
            rows.append((member.label, str(member.n), *(value for value, _ in cells)))
            rows.append(("", "", *(ends for _, ends in cells)))
        tables.append("\n  ".join([members[0].title, *aligned(rows)]))
    return "\n\n".join(tables)


def by_table(results: Sequence[FamilyResult]) -> list[list[FamilyResult]]:
    """The results of each family and kind, prompts first, then the baselines."""
    tables: dict[tuple[str, str], list[FamilyResult]] = {}
    for result in sorted(results, key=lambda result: result.baseline):
        tables.setdefault((result.family, result.kind), []).append(result)
    return list(tables.values())


def _cells(result: FamilyResult, name: str) -> tuple[str, str]:
    if name not in result.metrics:
        return "-", ""
    return format_value(result.metrics[name], digits_of(name))


def digits_of(metric: str) -> int:
    """How many digits after the point a metric is shown with."""
    return 2 if metric.startswith(("BLEU", "ROUGE")) else 4
