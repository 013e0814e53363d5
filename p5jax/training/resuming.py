"""Where a run goes on: its newest checkpoint that is whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from p5jax.core.errors import UserError
from p5jax.core.folder import refuse_difference
from p5jax.parallel import distributed
from p5jax.training.checkpoints import Checkpoints, Damaged, step_folder


def newest_whole(
    checkpoints: Checkpoints, abstract_state: Any, fingerprint: Mapping[str, Any]
) -> tuple[dict[str, Any], Any]:
    """Return (progress, state) of the newest checkpoint that is not damaged.

    Damaged ones after it are set aside, with a note: what they held comes again, bit for bit.
    Damaged, the newest one's, where none is whole. UserError when it is of another run, or when
    several processes would have to agree.
    """
    steps = checkpoints.steps()
    damaged: dict[int, Damaged] = {}
    for step in reversed(steps):
        try:
            progress = _matching_progress(checkpoints, step, fingerprint)
            state = checkpoints.restore(step, abstract_state)
        except Damaged as error:
            damaged[step] = error
            if step == steps[0]:
                raise damaged[steps[-1]] from None
            if jax.process_count() > 1:
                path = step_folder(checkpoints.folder, step)
                raise UserError(f"{error}; move {path} away and start again") from None
            continue
        for later, problem in damaged.items():
            aside = checkpoints.set_aside(later).name
            distributed.report(f"note: {problem}; set aside as {aside}, going on after step {step}")
        return progress, state
    raise UserError(f"{checkpoints.folder}: found no checkpoint, expected one or more")


def _matching_progress(
    checkpoints: Checkpoints, step: int, fingerprint: Mapping[str, Any]
) -> dict[str, Any]:
    """The progress to resume from; UserError when it is of another run."""
    path = step_folder(checkpoints.folder, step)
    progress = checkpoints.progress(step)
    if "pipeline" not in progress:
        raise UserError(f"{path}: found no pipeline state, expected a checkpoint of this trainer")
    refuse_difference(path, progress["fingerprint"], fingerprint)
    return progress
