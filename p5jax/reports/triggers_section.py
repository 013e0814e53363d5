"""A search for trigger tokens as a section of the HTML report."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from p5jax.core.documents import read_json_lines
from p5jax.core.kinds import Count
from p5jax.evaluation.results import SUMMARY, load_results
from p5jax.reports.charts import curves
from p5jax.runs.run import Run
from p5jax.triggers.evaluation import compared_metrics
from p5jax.triggers.layout import PROMPT_ID
from p5jax.triggers.prompt import HISTORY, TRIGGER_FOLDER, load_triggers


class _Round(TypedDict):
    round: Count
    epoch: Count
    kind: str
    slot: Count
    accepted: bool
    value: float
    gain: NotRequired[float]
    p_value: NotRequired[float]
    scored: NotRequired[Count]
    candidates: NotRequired[list[Count]]
    winner: NotRequired[int]
    changed: NotRequired[Count]
    seconds: float


def triggers_section(folder: str | os.PathLike[str], run: Run) -> str:
    """The prompt, the metric over rounds, the accepted changes, and the gains of the users where
    `p5jax triggers evaluate` has been run; UserError as `load_triggers`."""
    folder = Path(folder)
    prompt, manifest = load_triggers(folder, run), TRIGGER_FOLDER.read(folder)
    history = read_json_lines(folder / HISTORY, _Round, "a round a line")[: manifest["round"]]
    changed = int((prompt.users != prompt.default).any(axis=1).sum())
    state = "finished" if manifest["finished"] else "unfinished"
    parts = [
        f"<h2>Trigger tokens: {escape(folder.name)}</h2>",
        f"<div class=example><p>{escape(manifest['prompt'])}</div>",
        f"<p>{escape(prompt.family)}, {state} after {len(history)} rounds, seed"
        f" {manifest['settings']['seed']}; {changed} users have tokens of their own.</p>",
    ]
    if history:
        values = [(r["round"], r["value"]) for r in history]
        marked = [(r["round"], r["value"]) for r in history if r["accepted"]]
        parts.append(
            curves(
                "value on the validation users that choose no candidate",
                "round",
                {"value": values},
                marked,
            )
        )
        parts.append(_changes(history))
    for split in ("test", "validation"):
        results = folder / "evaluation" / f"triggers-{split}"
        if (results / SUMMARY).is_file():
            parts.append(_gains(results, split))
    return "".join(parts)


def _changes(history: list[_Round]) -> str:
    rows = [
        f"<tr><td>{r['round']}<td>{r['kind']}<td>{r['slot'] + 1}<td>{r['gain']:+.5f}"
        f"<td>{r.get('p_value', float('nan')):.4f}"
        for r in history
        if r["accepted"]
    ]
    header = "<tr><th>round<th>token<th>position<th>gain<th>p"
    return f"<h3>Accepted changes</h3><table>{header}{''.join(rows)}</table>"


def _gains(folder: Path, split: str) -> str:
    """How many users gain and lose against the seen manual prompt, by metric."""
    by_id = {result.prompt_id: result for result in load_results(folder)}
    found = by_id.pop(PROMPT_ID)
    (manual,) = by_id.values()
    keys = [("user", "ascending"), ("item", "ascending")]
    before, after = (result.per_user.sort_by(keys) for result in (manual, found))
    rows = []
    for name in compared_metrics(found):
        gain = after[name].to_numpy() - before[name].to_numpy()
        better, worse = int((gain > 0).sum()), int((gain < 0).sum())
        rows.append(
            f"<tr><td>{escape(name)}<td>{np.mean(gain):+.4f}<td>{better}<td>{worse}"
            f"<td>{len(gain) - better - worse}"
        )
    header = f"<tr><th>against {escape(manual.prompt_id)}<th>mean gain<th>better<th>worse<th>same"
    return f"<h3>Users of the {split} split</h3><table>{header}{''.join(rows)}</table>"
