"""What is settled before a run's first step: how long it was planned, and what judges it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from p5jax.core.errors import UserError, nearest
from p5jax.core.folder import differences
from p5jax.training.checkpoints import available_steps, read_progress, step_folder
from p5jax.training.optimizer import OptimizerConfig


def planned(
    folder: Path, fingerprint: Mapping[str, Any], optimizer: OptimizerConfig, steps: int
) -> tuple[Mapping[str, Any], int]:
    """Return the fingerprint of the run in a folder of checkpoints, and the steps of its schedule.

    A run that asks for more `steps` than it was started with, and for nothing else, is the run that
    is there: its warm-up stays as it was planned, and a constant or rsqrt schedule goes on.
    UserError for a linear one, which has reached 0 at the step where the run was to end, and for a
    run that is there and has gone beyond `steps`.
    """
    for step in reversed(available_steps(folder)):
        try:
            there = read_progress(step_folder(folder, step)).get("fingerprint", {})
        except UserError:  # damaged: whoever restores it says so
            continue
        found = list(differences(there, fingerprint))
        if any(not _is_steps(key) for key, _, _ in found):
            break
        if step > steps:
            raise UserError(
                f"{step_folder(folder, step)}: the run is at step {step}, beyond the {steps} steps"
                f" asked for; ask for {step} or more, or choose another folder"
            )
        if len(found) != 1:
            break
        (key, old, new), *_ = found
        if not (isinstance(old, int) and old < new == steps):
            break
        if optimizer.schedule == "linear":
            raise UserError(
                f"{step_folder(folder, step)}: found {key} = {old}, expected {new}: the linear"
                f" schedule ends at step {old}, and only a constant or rsqrt one goes on; choose"
                " another folder, where a P5 run can start from this checkpoint"
                " (RunConfig.initial_checkpoint)"
            )
        return there, old
    return fingerprint, steps


def _is_steps(key: str) -> bool:
    """Whether a key of a fingerprint is that of TrainConfig.steps."""
    return key.rpartition(".")[2] == "steps"


def check_metric(best_metric: str, names: Collection[str]) -> None:
    """Raise UserError when a validation will give `names`, and the metric that judges is none."""
    if names and best_metric not in names:
        raise UserError(
            f"TrainConfig.best_metric: found {best_metric!r}, expected one of"
            f" {', '.join(sorted(names))}{nearest(best_metric, names)}"
        )
