"""Training of a soft prompt against a frozen P5 run, and the folder it is kept in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.files import replace_text
from p5jax.evaluation.evaluators import evaluate_family
from p5jax.models.t5 import param_axes
from p5jax.parallel import distributed
from p5jax.parallel.partitioning import make_mesh, process_share
from p5jax.pipeline.config import PipelineConfig
from p5jax.pipeline.iterator import train_iterator
from p5jax.ppr.generator import PromptConfig
from p5jax.ppr.profiles import ProfileConfig, ProfileSchema, fit_profiles
from p5jax.ppr.soft.t5_backbone import ARGUMENTS, FAMILY, PROMPT_ID, TRAINABLE, SoftRun
from p5jax.runs.manifest import claim, read_manifest
from p5jax.runs.run import Run
from p5jax.training.checkpoints import available_steps, restore_params
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.trainer import CHECKPOINT_FOLDER, TrainConfig, train
from p5jax.triggers.prompt import run_fingerprints

FORMAT_VERSION = 1
MANIFEST, SCHEMA = "soft.json", "profiles.json"
_COMMAND = "p5jax ppr soft"


@dataclass(frozen=True)
class SoftConfig:
    """What a soft prompt is for; `run` and `out` must be set.

    run: the P5 run's folder; out: the prompt's own. text: what stands behind the prefix, the id of
    one of the run's sequential prompts or "arguments", what a trigger prompt has beside its trigger
    words. rank_users: validation users that are ranked for validation/NDCG@10.
    """

    run: str
    out: str
    text: str = ARGUMENTS
    rank_users: int = 500


def train_soft(
    run: Run,
    soft: SoftConfig,
    prompt: PromptConfig,
    profile: ProfileConfig,
    pipeline: PipelineConfig,
    optimizer: OptimizerConfig,
    training: TrainConfig,
) -> None:
    """Train a soft prompt on the run's mesh; Interrupted by a signal.

    The same call resumes it. UserError when `soft.out` holds something else.
    """
    folder, schema = Path(soft.out), fit_profiles(run.dataset, _everyone(run), profile)
    settings = _settings(soft, prompt, profile, pipeline, optimizer, training)
    distributed.from_primary(lambda: _open(folder, run, settings, schema))
    state = SoftRun(run, prompt, schema.profiles(run.dataset), soft.text, folder)
    mesh = run.mesh or make_mesh()
    longest = state.families[FAMILY].source.config.max_source
    lengths = tuple(length for length in pipeline.source_lengths if length < longest)
    if pipeline.batching == "packed":
        raise UserError("PipelineConfig.batching: found packed, expected longest or buckets")
    if pipeline.batching == "auto":  # a row's prefix is its first user's
        pipeline = replace(pipeline, batching="buckets")
    pipeline = replace(pipeline, source_lengths=(*lengths, longest))
    train(
        state.objective(),
        {"t5": run.params, "soft": state.initial(training.seed)},
        {"t5": param_axes(run.model), "soft": state.axes()},
        train_iterator(state.families, state.vocabulary, pipeline, *process_share(mesh)),
        optimizer,
        mesh,
        training,
        folder,
        fingerprint=settings,
        validate=_validator(state, soft.rank_users),
        trainable=TRAINABLE,
    )


def load_soft(folder: str | os.PathLike[str], run: Run) -> SoftRun:
    """Open a soft prompt's folder for its run; UserError when it is another's or not finished."""
    folder = Path(folder)
    manifest = read_soft(folder)
    for name, expected in run_fingerprints(run).items():
        if manifest["identity"].get(name) != expected:
            was = str(manifest["identity"].get(name))[:12]
            raise UserError(
                f"{folder}: its prompt was trained with {name} {was}, this run has {expected[:12]}"
            )
    settings = manifest["settings"]
    checkpoints = folder / CHECKPOINT_FOLDER
    if settings["TrainConfig"]["steps"] not in available_steps(checkpoints):
        raise UserError(f"{folder}: found a training that is not finished; {_COMMAND} resumes it")
    profiles = ProfileSchema.load(folder / SCHEMA).profiles(run.dataset)
    prompt = PromptConfig(**settings["PromptConfig"])
    state = SoftRun(run, prompt, profiles, settings["SoftConfig"]["text"], folder)
    shapes = {"t5": run.params, "soft": jax.eval_shape(lambda: state.initial(0))}
    state.soft = restore_params(checkpoints, shapes)["soft"]
    return state


def read_soft(folder: Path) -> dict[str, Any]:
    """What a soft prompt's folder says of itself; UserError when it is no such folder."""
    return read_manifest(folder / MANIFEST, FORMAT_VERSION, _COMMAND)


def _open(folder: Path, run: Run, settings: dict[str, Any], schema: ProfileSchema) -> None:
    """Make the folder, or see that it is this training's."""
    manifest = {
        "format_version": FORMAT_VERSION,
        "identity": run_fingerprints(run),
        "profile": asdict(schema),
        "settings": settings,
    }
    manifest, file = json.loads(json.dumps(manifest)), folder / MANIFEST
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        read_soft(folder)  # refuses any other folder
        begun = bool(available_steps(folder / CHECKPOINT_FOLDER))
        claim(file, FORMAT_VERSION, _COMMAND, manifest, begun)
    folder.mkdir(parents=True, exist_ok=True)
    schema.save(folder / SCHEMA)
    replace_text(file, json.dumps(manifest, indent=1) + "\n")


def _settings(soft: SoftConfig, *configs: Any) -> dict[str, Any]:
    """What a prompt depends on, JSON-able: a resumed training must have the same."""
    parts = {type(part).__name__: asdict(part) for part in (soft, *configs)}
    for name in ("run", "out"):  # the run is known by its parameters
        del parts["SoftConfig"][name]
    for name in ("log_every", "keep", "checkpoint_every"):
        del parts["TrainConfig"][name]
    for name in ("threads", "workers"):
        del parts["PipelineConfig"][name]
    return json.loads(json.dumps(parts))


def _everyone(run: Run) -> np.ndarray:
    return np.arange(run.dataset.num_users)


def _validator(state: SoftRun, limit: int) -> Callable[[Any, int], dict[str, float]]:
    """A function (params, step) -> whole-catalogue metrics of some validation users."""

    def validate(params: Any, step: int) -> dict[str, float]:
        state.soft = params["soft"]
        result = evaluate_family(
            state, FAMILY, PROMPT_ID, "validation", limit=limit, report=lambda line: None
        )
        return {f"validation/{n}": float(result.metrics[n][0]) for n in ("HR@10", "NDCG@10")}

    return validate
