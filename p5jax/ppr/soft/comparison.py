"""Soft prompts compared with trigger tokens and manual prompts, on one frozen model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from p5jax.core.errors import UserError
from p5jax.core.progress import Report
from p5jax.evaluation.settings import DEFAULTS, EvaluationConfig
from p5jax.parallel import distributed
from p5jax.ppr.soft.t5_backbone import PROMPT_ID
from p5jax.ppr.soft.training import SOFT_PROMPT, load_soft
from p5jax.runs.run import Run
from p5jax.triggers.evaluation import Contender, PromptComparison, evaluate_triggers


def compare_prompts(
    run: Run,
    soft: Sequence[str | Path],
    triggers: Sequence[str | Path] = (),
    split: str = "test",
    limit: int | None = None,
    *,
    config: EvaluationConfig = DEFAULTS,
    report: Report = distributed.report,
) -> list[PromptComparison]:
    """Rank the held-out items with manual prompts, trigger tokens and soft prefixes.

    For triggers.evaluation.format_prompt_comparison: means, paired intervals over users against the
    seen manual prompt, and baselines. Folders whose settings differ only in the seed are one row.
    UserError without a soft prompt, or with one of another model.
    """
    if not soft:
        raise UserError("soft: found no folder, expected at least one of p5jax ppr soft")
    if len({Path(folder).resolve() for folder in soft}) < len(soft):
        raise UserError("soft: found a folder twice, expected each once")
    others = [_contender(Path(folder), run) for folder in soft]
    return evaluate_triggers(
        run, triggers, split, limit, others=others, config=config, report=report
    )


def _contender(folder: Path, run: Run) -> Contender:
    settings = SOFT_PROMPT.read(folder)["settings"]
    for part in ("TrainConfig", "PipelineConfig"):
        del settings[part]["seed"]
    kind = f"soft prefix, {settings['SoftConfig']['text']}"
    return Contender(
        kind, folder.name, json.dumps(settings, sort_keys=True), load_soft(folder, run), PROMPT_ID
    )
