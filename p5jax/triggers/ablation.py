"""The paper's ablations: one search for each value of one setting, judged side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from p5jax.core.errors import UserError
from p5jax.core.progress import Report
from p5jax.parallel import distributed
from p5jax.runs.run import Run
from p5jax.triggers.evaluation import PromptComparison, evaluate_triggers
from p5jax.triggers.searching import search
from p5jax.triggers.settings import ABLATIONS, SearchConfig


def ablate(
    run: Run,
    config: SearchConfig,
    vary: str,
    out: str | Path,
    limit: int | None = None,
    report: Report = distributed.report,
) -> list[PromptComparison]:
    """Search once for each value of the setting `vary`, in OUT/VARY-VALUE, then compare on test.

    limit: test examples, None for all. Interrupted by a signal, after which the same call resumes.
    UserError for an unknown setting, or user_place without user tokens.
    """
    if vary not in ABLATIONS:
        raise UserError(f"vary: found {vary!r}, expected {', '.join(ABLATIONS)}")
    if vary == "user_place" and not config.layout.user_tokens:
        raise UserError("vary: found user_place without user tokens, expected some")
    folders = []
    for value in ABLATIONS[vary]:
        folders.append(Path(out) / f"{vary}-{value}")
        report(f"{vary} = {value}")
        search(run, _with_setting(config, vary, value), folders[-1], report)
    return evaluate_triggers(run, folders, limit=limit, report=report)


def _with_setting(config: SearchConfig, name: str, value: str | int) -> SearchConfig:
    """The configuration with another value of one setting of its layout or its surrogate."""
    changed: dict[str, Any] = {name: value}
    if name == "criterion":
        return replace(config, surrogate=replace(config.surrogate, **changed))
    return replace(config, layout=replace(config.layout, **changed))
