"""What an evaluation found: metrics, per-user values and examples, on disk and as a table."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from p5jax.errors import UserError
from p5jax.evaluation.metrics import Interval

SUMMARY = "summary.json"
# What is ranked, predicted or generated; results of one family and group share their baselines.
GROUPS = {
    "catalogue": "next item among the whole catalogue",
    "candidates": "the held-out item among candidates",
    "yes_no": "the held-out item among candidates",
    "rating": "stars",
    "text": "text",
    "choice": "one of two answers",
}
# The metrics of each group that tables show.
SHOWN = {
    "catalogue": ("HR@1", "HR@5", "NDCG@5", "HR@10", "NDCG@10", "MRR", "coverage"),
    "candidates": ("HR@1", "HR@5", "NDCG@5", "HR@10", "NDCG@10", "MRR"),
    "rating": ("RMSE", "MAE", "RMSE greedy", "MAE greedy", "unparsable"),
    "text": ("BLEU-2", "BLEU-4", "ROUGE-1", "ROUGE-2", "ROUGE-L", "distinct"),
    "choice": ("accuracy",),
}


@dataclass(frozen=True)
class FamilyResult:
    """One prompt's evaluation, or one baseline's (then `prompt_id` is the baseline's name).

    kind: a key of GROUPS. metrics: name -> (value, low, high) with 95 % intervals over n examples.
    per_user: one row per example. examples: (prompt, answer, reference).
    """

    family: str
    prompt_id: str
    seen: bool
    n: int
    metrics: dict[str, Interval]
    per_user: pa.Table
    examples: list[tuple[str, str, str]]
    kind: str
    baseline: bool = False

    @property
    def group(self) -> str:
        """The kind whose baselines apply: asking yes/no ranks candidates too."""
        return "candidates" if self.kind == "yes_no" else self.kind

    @property
    def file(self) -> str:
        """The name of the per-user file."""
        middle = f"baseline_{self.kind}_" if self.baseline else ""
        return f"{self.family}_{middle}{self.prompt_id}.parquet"

    @property
    def label(self) -> str:
        """What a table calls the row."""
        if self.baseline:
            return self.prompt_id.replace("_", " ")
        how = ", yes/no" if self.kind == "yes_no" else ""
        return f"prompt {self.prompt_id} ({'seen' if self.seen else 'unseen'}{how})"


def summary(results: Sequence[FamilyResult]) -> list[dict[str, Any]]:
    """The results as JSON-able objects, without their per-user tables."""
    return [
        {
            "family": result.family,
            "prompt": result.prompt_id,
            "kind": result.kind,
            "baseline": result.baseline,
            "seen": result.seen,
            "n": result.n,
            "metrics": {name: list(values) for name, values in result.metrics.items()},
            "examples": [list(example) for example in result.examples],
            "file": result.file,
        }
        for result in results
    ]


def write_results(folder: Path, results: Sequence[FamilyResult], header: dict[str, Any]) -> None:
    """Write summary.json and one Parquet file per result into `folder`, replacing it at once.

    Earlier results of the same header (model, dataset, split and settings) that were not computed
    again are kept; results of another header are dropped, so one folder never mixes two models.
    """
    fresh = {result.file for result in results}
    kept = [old for old in _previous(folder, header) if old.file not in fresh]
    merged = sorted([*kept, *results], key=lambda r: (r.family, r.kind, r.baseline, r.prompt_id))
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for result in merged:
            pq.write_table(result.per_user, partial / result.file, compression="zstd")
        document = {**header, "results": summary(merged)}
        (partial / SUMMARY).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _previous(folder: Path, header: dict[str, Any]) -> list[FamilyResult]:
    if not (folder / SUMMARY).is_file():
        return []
    document = _document(folder)
    same = {key: document.get(key) for key in header} == json.loads(json.dumps(header))
    return load_results(folder) if same else []


def _document(folder: Path) -> dict[str, Any]:
    file = folder / SUMMARY
    if not file.is_file():
        raise UserError(f"{file}: not found, expected the results of p5jax evaluate")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        document["results"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: found {error!r}, expected a summary of results") from error
    return document


def load_results(folder: Path) -> list[FamilyResult]:
    """Read what `write_results` wrote; UserError when it is absent or incomplete."""
    results = []
    for row in _document(folder)["results"]:
        file = folder / row["file"]
        if not file.is_file():
            raise UserError(f"{file}: not found, expected the file that {SUMMARY} names")
        results.append(
            FamilyResult(
                family=row["family"],
                prompt_id=row["prompt"],
                seen=row["seen"],
                n=row["n"],
                metrics={name: (v[0], v[1], v[2]) for name, v in row["metrics"].items()},
                per_user=pq.read_table(file),
                examples=[(e[0], e[1], e[2]) for e in row["examples"]],
                kind=row["kind"],
                baseline=row["baseline"],
            )
        )
    return results


def format_results(results: Sequence[FamilyResult]) -> str:
    """The results as text: a table per family and kind, prompts first, then the baselines.

    Each value stands with half the width of its 95 % interval.
    """
    groups: dict[tuple[str, str], list[FamilyResult]] = {}
    for result in results:
        groups.setdefault((result.family, result.group), []).append(result)
    tables = []
    for (family, group), members in groups.items():
        names = [n for n in SHOWN[group] if any(n in member.metrics for member in members)]
        rows = [("", "n", *names)]
        for member in sorted(members, key=lambda member: member.baseline):
            rows.append((member.label, str(member.n), *(_cell(member, n) for n in names)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{family}: {GROUPS[group]}"]
        for row in rows:
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
            lines.append("  " + "  ".join(cells).rstrip())
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _cell(result: FamilyResult, name: str) -> str:
    if name not in result.metrics:
        return "-"
    value, low, high = result.metrics[name]
    digits = 2 if name.startswith(("BLEU", "ROUGE")) else 4
    return f"{value:.{digits}f} ±{(high - low) / 2:.{digits}f}"
