"""The paper's ablations: one search for each value of one setting, judged side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from p5jax.core.errors import UserError
from p5jax.core.progress import Report
from p5jax.parallel import distributed
from p5jax.runs.run import Run
from p5jax.triggers.evaluation import Row, evaluate_triggers
from p5jax.triggers.layout import POSITIONS, USER_PLACES
from p5jax.triggers.rounds import SearchConfig
from p5jax.triggers.searching import search
from p5jax.triggers.surrogate import CRITERIA

# Setting -> the part of the configuration it is in, and the values that are compared.
ABLATIONS: dict[str, tuple[str, Sequence[Any]]] = {
    "position": ("layout", POSITIONS),
    "user_place": ("layout", USER_PLACES),
    "task_tokens": ("layout", (3, 4, 5, 6, 7)),
    "criterion": ("surrogate", CRITERIA),
}


def ablate(
    run: Run,
    config: SearchConfig,
    vary: str,
    out: str | Path,
    limit: int | None = None,
    report: Report = distributed.report,
) -> list[Row]:
    """Search once for each value of the setting `vary`, in OUT/VARY-VALUE, then compare on test.

    Interrupted by a signal, after which the same call resumes. UserError for an unknown
    setting, or user_place without user tokens.
    """
    if vary not in ABLATIONS:
        raise UserError(f"vary: found {vary!r}, expected {', '.join(ABLATIONS)}")
    if vary == "user_place" and not config.layout.user_tokens:
        raise UserError("vary: found user_place without user tokens, expected some")
    part, values = ABLATIONS[vary]
    folders = []
    for value in values:
        changed = replace(getattr(config, part), **{vary: value})
        folders.append(Path(out) / f"{vary}-{value}")
        report(f"{vary} = {value}")
        search(run, replace(config, **{part: changed}), folders[-1], report)
    return evaluate_triggers(run, folders, limit=limit, report=report)
