"""A cold-start study as an HTML page: methods by kind of case and ranking, ablations of `light`,
replaced attributes, tuning curves and seconds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5jax.core.errors import UserError
from p5jax.ppr.cold.results import (
    COLD_TABLE_METRICS,
    RANKING_TITLES,
    ColdRow,
    read_per_user,
    summarise,
)
from p5jax.ppr.cold_study import (
    PER_USER,
    STUDY,
    STUDY_ABLATIONS,
    folder_name,
    noise_share,
    total_seconds,
)
from p5jax.ppr.tuning import MODES
from p5jax.reports.charts import Points, curves
from p5jax.reports.page import with_interval, write_page
from p5jax.training.writers import METRICS_FILE, read_metrics

_DRAWN = "NDCG@10"  # of the curves; tuning keeps the step at which it is best
_ABLATED = frozenset(name for methods in STUDY_ABLATIONS.values() for name in methods)
_BASES = ("light", "finetune")  # what stands beside changes to light
_PROMPTED = frozenset(name for name, mode in MODES.items() if mode.prompted)
_NOTE = (
    "<p class=note>Means over users, a user's value being the mean over the seeds in which the user"
    " tests; 95 % intervals in brackets. Below them the difference from the table's first row, its"
    " 95 % interval by a paired bootstrap over users, and the two-sided p, not corrected for the"
    " number of comparisons. Few-shot: all cases with a history; k-shot: those with k events of"
    " it; joint: all.</p>"
)


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write STUDY/report.html from what the study has so far; return its path.

    UserError when the folder is not a study, or no seed of it is finished.
    """
    folder = Path(folder)
    path = folder / "report.html"
    write_page(path, f"{folder.resolve().name} · p5jax", [study_section(folder)])
    return path


def study_section(folder: str | os.PathLike[str]) -> str:
    """The study as HTML; UserError as `write_report`."""
    folder = Path(folder)
    manifest = STUDY.read(folder)
    seeds = _seed_folders(folder)
    finished = [path for path in seeds if (path / PER_USER).is_file()]
    if not finished:
        raise UserError(f"{folder}: found no finished seed; the same {STUDY.command} resumes it")
    groups = _groups([read_per_user(path / PER_USER) for path in finished])
    parts = [
        _overview(manifest, finished),
        _unfinished([path.name for path in seeds if path not in finished]),
        _tuning(finished),
        "<h2>Results</h2>",
        _NOTE,
        *(group.note() for group in groups),
    ]
    for kind, ranking in groups[0].rows:
        parts.append(f"<h2>{escape(kind)}, {RANKING_TITLES[ranking]}</h2>")
        parts += [group.html(kind, ranking) for group in groups]
    return "".join([*parts, _seconds(folder)])


def _seed_folders(folder: Path) -> list[Path]:
    """The folders seed-N, by number."""
    found = [path for path in folder.glob("seed-*") if path.name[len("seed-") :].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[len("seed-") :]))


def _unfinished(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f"<p class=note>Not finished: {', '.join(names)}; below are only their seconds.</p>"


@dataclass(frozen=True)
class _Group:
    """Methods that stand in one table: their rows by (kind, ranking), the reference first.

    absent: methods that only some of the group's seeds have, which are left out.
    """

    title: str
    rows: Mapping[tuple[str, str], Sequence[ColdRow]]
    absent: Sequence[str]
    drawn: bool

    def note(self) -> str:
        if not self.absent:
            return ""
        names = escape("; ".join(self.absent))
        return f"<p class=note>Left out, as only some seeds have them: {names}.</p>"

    def html(self, kind: str, ranking: str) -> str:
        """The title, the noise curve if the group is one, and the table."""
        rows = self.rows.get((kind, ranking), ())
        if not rows:
            return ""
        title = f"<h3>{self.title}</h3>" if self.title else ""
        return title + (_noise_curve(rows) if self.drawn else "") + _table(rows)


def _groups(tables: Sequence[pa.Table]) -> list[_Group]:
    """The methods against fine-tuning, then the changes to `light` against it."""

    def is_plain(name: str) -> bool:
        return name not in _ABLATED and noise_share(name) is None

    made = [
        _group("", tables, is_plain, (), "finetune"),
        _group("Without contrastive parts", tables, _ABLATED.__contains__, _BASES, "light"),
        _group("Wrong profiles", tables, lambda n: noise_share(n) is not None, _BASES, "light"),
    ]
    return [group for group in made if group is not None]


def _group(
    title: str,
    tables: Sequence[pa.Table],
    belongs: Callable[[str], bool],
    beside: Sequence[str],
    reference: str,
) -> _Group | None:
    """The group of all methods that belong to it, over the seeds that have any; None without.

    A study that is grown has seeds with and without the new methods for a while.
    """
    having = [(table, _methods(table)) for table in tables]
    having = [(table, names) for table, names in having if any(map(belongs, names))]
    if not having:
        return None
    all_names = dict.fromkeys(n for _, names in having for n in names if belongs(n))
    common = [n for n in all_names if all(n in names for _, names in having)]
    absent = [name for name in all_names if name not in common]
    if not common:
        return _Group(title, {}, absent, drawn=False)
    chosen = pa.array([*beside, *common])
    table = pa.concat_tables([t.filter(pc.is_in(t["method"], chosen)) for t, _ in having])
    rows: dict[tuple[str, str], list[ColdRow]] = {}
    for row in summarise(table, reference):
        rows.setdefault((row.kind, row.ranking), []).append(row)
    return _Group(title, rows, absent, drawn=any(noise_share(name) is not None for name in common))


def _methods(table: pa.Table) -> list[str]:
    names: list[str] = pc.unique(table["method"]).to_pylist()
    return names


def _table(rows: Sequence[ColdRow]) -> str:
    first = rows[0]
    header = "".join(f"<th>{escape(name)}" for name in COLD_TABLE_METRICS)
    body = "".join(_row(row) for row in rows)
    counts = f"{first.cases:,} cases of {first.users:,} users, {_seeds(first.seeds)}"
    return f"<p>{counts}</p><table><tr><th>{header}{body}</table>"


def _seeds(n: int) -> str:
    return f"{n} seed{'s' * (n > 1)}"


def _row(row: ColdRow) -> str:
    style = " class=model" if row.method in _PROMPTED else ""
    cells = "".join(_cell(row, name) for name in COLD_TABLE_METRICS)
    return f"<tr{style}><td>{escape(row.method)}{cells}"


def _cell(row: ColdRow, name: str) -> str:
    cell = f"<td>{with_interval(*row.metrics[name])}"
    if not row.differences:
        return cell
    d = row.differences[name]
    return (
        f"{cell}<small>{d.difference:+.4f} [{d.low:+.4f}, {d.high:+.4f}] p {d.p_value:.4f}</small>"
    )


def _noise_curve(rows: Sequence[ColdRow]) -> str:
    """The metric over the share of replaced attributes; fine-tuning, which reads none, is level."""
    values = {row.method: row.metrics[_DRAWN][0] for row in rows}
    shares = {name: noise_share(name) for name in values}
    points = sorted((share, values[name]) for name, share in shares.items() if share is not None)
    series: dict[str, Points] = {"light": [(0.0, values["light"]), *points]}
    if "finetune" in values:
        series["finetune"] = [(x, values["finetune"]) for x in (0.0, points[-1][0])]
    first = rows[0]
    title = f"{_DRAWN}, {first.kind}, {RANKING_TITLES[first.ranking]}"
    return curves(title, "share of replaced attributes", series)


def _tuning(seeds: Sequence[Path]) -> str:
    """The validation curve of each mode, the mean over the seeds, at the steps that all have."""
    series: dict[str, Points] = {}
    for mode in MODES:
        files = [path / folder_name(mode) / METRICS_FILE for path in seeds]
        if not all(file.is_file() for file in files):
            continue
        found = [_validation(file) for file in files]
        steps = sorted(set(found[0]).intersection(*found))
        if steps:
            series[mode] = [(s, float(np.mean([values[s] for values in found]))) for s in steps]
    if not series:
        return ""
    title = f"{_DRAWN} of tuning users held out, mean over {_seeds(len(seeds))}"
    return f"<h2>Tuning</h2>{curves(title, 'step', series)}"


def _validation(file: Path) -> dict[int, float]:
    name = f"validation/{_DRAWN}"
    return {r["step"]: r[name] for r in read_metrics(file) if r.get(name) is not None}


def _overview(manifest: Mapping[str, Any], finished: Sequence[Path]) -> str:
    settings = manifest["settings"]
    protocol, backbone = settings["protocol"], settings["pretraining"]["backbone"]
    training, tune = settings["pretraining"]["training"], settings["tune"]
    if protocol["kind"] == "held_out":
        cold = f"{protocol['share']:.0%} of the users, their first {protocol['first']} events"
    else:
        cold = f"users with fewer than {protocol['threshold']} events"
    profile = ", ".join(settings["profile"]["attributes"]) or "all usable attributes"
    if manifest["source"] is not None:
        profile = "the users' states in another dataset"
    rows = [
        ("cold users", cold),
        ("of them tune", f"{protocol['train_share']:.0%}; the others test"),
        ("candidates", f"the target and {protocol['negatives']} frozen negatives"),
        ("profile", profile),
        ("backbone", f"width {backbone['emb_dim']}, {backbone['num_layers']} layers"),
        ("pre-training", f"{settings['pretraining']['loss']['loss']}, {training['steps']} steps"),
        ("tuning", f"{tune['loss']}, {tune['steps']} steps"),
        ("prompt length", settings["prompt"]["length"]),
        ("seeds", ", ".join(path.name[len("seed-") :] for path in finished)),
        ("data fingerprint", manifest["dataset"][:16]),
    ]
    cells = "".join(f"<tr><td>{escape(name)}<td>{escape(str(value))}" for name, value in rows)
    return f"<h2>Study</h2><table>{cells}</table>"


def _seconds(folder: Path) -> str:
    """The seconds of each part, summed over all seeds, unfinished ones included."""
    seconds = total_seconds(folder)
    total = sum(seconds.values())
    rows = "".join(
        f"<tr><td>{escape(name)}<td>{value:,.1f}"
        for name, value in [*seconds.items(), ("total", total)]
    )
    return f"<h2>Seconds</h2><table><tr><th>part<th>all seeds{rows}</table>"
