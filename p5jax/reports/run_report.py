"""A run as one self-contained HTML page: what was trained, curves, tables, examples."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from p5jax.core.kinds import built
from p5jax.evaluation.results import SHOWN_METRICS, SUMMARY, FamilyResult, by_table, load_results
from p5jax.memory.settings import MemorySettings
from p5jax.reports.charts import curves
from p5jax.reports.comparison_section import comparison_section
from p5jax.reports.page import with_interval, write_page
from p5jax.reports.triggers_section import triggers_section
from p5jax.runs.run import Run
from p5jax.runs.stored_memory import STORED_MEMORY
from p5jax.training.writers import METRICS_FILE, read_metrics

_SPLITS = ("test", "validation")


def write_report(
    run_dir: str | os.PathLike[str],
    triggers: Sequence[str | os.PathLike[str]] = (),
    beside: str | os.PathLike[str] | None = None,
) -> Path:
    """Write RUN/report.html from the run's records and evaluations, and from folders of trigger
    tokens found for it; return its path.

    beside: another run, which is set beside it with paired differences. UserError, and nothing is
    written, where the two have no evaluated prompt or not the same examples in common.
    """
    run = Run.load(run_dir)
    sections = [_overview(run), _curves(run)]
    for split in _SPLITS:
        folder = run.path / "evaluation" / split
        if (folder / SUMMARY).is_file():
            results = load_results(folder)
            sections += [_tables(results, split), _examples(results)]
    if len(sections) == 2:
        sections.append("<p class=note>Not evaluated yet: run p5jax evaluate.</p>")
    if beside is not None:
        other = Run.load(beside)
        sections.append(comparison_section(run.path, other.path, _SPLITS))
    sections += [triggers_section(folder, run) for folder in triggers]
    path = run.path / "report.html"
    write_page(path, f"{run.dataset.name} · p5jax", sections)
    return path


def _overview(run: Run) -> str:
    dataset, model = run.dataset, run.manifest["model"]
    rows = [
        ("users, items", f"{dataset.num_users:,}, {dataset.num_items:,}"),
        ("interactions", f"{dataset.interactions.num_rows:,}"),
        ("item ids", f"{dataset.id_scheme}, e.g. {dataset.item_ids[0]}"),
        ("families", ", ".join(run.manifest["families"])),
        ("encoder layers", model["num_encoder_layers"]),
        ("decoder layers", model["num_decoder_layers"]),
        ("width", model["emb_dim"]),
        ("vocabulary", f"{run.vocabulary.size:,} tokens"),
        ("data fingerprint", dataset.fingerprint[:16]),
    ]
    if STORED_MEMORY.is_at(run.path):
        entry = STORED_MEMORY.read(run.path)
        settings = built(run.path / STORED_MEMORY.manifest, MemorySettings, entry["settings"])
        rows.append(("memory, chosen on validation", str(settings)))
    cells = "".join(f"<tr><td>{escape(name)}<td>{escape(str(value))}" for name, value in rows)
    warning = (
        "<p class=leaky>The item ids are <b>leaky</b>: they were numbered from held-out"
        " interactions, so no figure below is a fair one.</p>"
        if dataset.leaky
        else ""
    )
    return f"{warning}<h2>What was trained</h2><table>{cells}</table>"


def _curves(run: Run) -> str:
    path = run.path / METRICS_FILE
    records = read_metrics(path) if path.is_file() else []
    names = {name for record in records for name in record}
    panels: list[tuple[str, list[str]]] = [
        ("loss", [n for n in ("train/loss", "validation/loss") if n in names]),
        ("validation ranking", sorted(n for n in names if re.match(r"validation/(HR|NDCG)", n))),
        ("tokens per second", [n for n in ("train/tokens_per_second",) if n in names]),
    ]
    drawn = [
        curves(title, "step", {name: _points(records, name) for name in series})
        for title, series in panels
        if series
    ]
    return f"<h2>Training</h2>{''.join(drawn)}" if drawn else ""


def _points(records: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(r["step"], r[name]) for r in records if r.get(name) is not None]


def _tables(results: list[FamilyResult], split: str) -> str:
    parts = [f"<h2>Results on the {split} split</h2>"]
    parts.append("<p class=note>95 % intervals in brackets; n is the number of examples.</p>")
    for members in by_table(results):
        names = [n for n in SHOWN_METRICS[members[0].kind] if any(n in m.metrics for m in members)]
        header = "".join(f"<th>{escape(name)}" for name in names)
        rows = [_row(member, names) for member in members]
        title = members[0].title
        parts.append(f"<h3>{escape(title)}</h3><table><tr><th><th>n{header}{''.join(rows)}</table>")
    return "".join(parts)


def _row(result: FamilyResult, names: list[str]) -> str:
    cells = "".join(_cell(result, name) for name in names)
    style = "" if result.baseline else " class=model"
    return f"<tr{style}><td>{escape(result.label)}<td>{result.n}{cells}"


def _cell(result: FamilyResult, name: str) -> str:
    if name not in result.metrics:
        return "<td>–"
    return f"<td>{with_interval(*result.metrics[name])}"


def _examples(results: list[FamilyResult]) -> str:
    parts = ["<h2>Examples</h2>"]
    for result in results:
        for prompt, answer, reference in result.examples[:2]:
            name = escape(f"{result.family} {result.prompt_id}")
            parts.append(
                f"<div class=example><p><small>{name}</small><p>{escape(prompt)}"
                f"<p>→ <b>{escape(answer)}</b> <small>reference: {escape(reference)}</small></div>"
            )
    return "".join(parts)
