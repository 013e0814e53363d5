"""Training of a soft prompt against a frozen P5 run, and the folder it is kept in."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import jax
import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.folder import OutputFolder, as_json
from p5jax.core.kinds import Count, built
from p5jax.core.lock import released
from p5jax.core.settings import SIZE, check
from p5jax.evaluation.evaluators import validation_metrics, validation_ranking
from p5jax.models.initial import Params
from p5jax.models.t5 import param_axes
from p5jax.parallel import distributed
from p5jax.parallel.partitioning import make_mesh, process_share
from p5jax.pipeline.config import PipelineConfig
from p5jax.pipeline.iterator import BatchIterator
from p5jax.pipeline.windows import Windows
from p5jax.ppr.generator import PromptConfig
from p5jax.ppr.profiles import ProfileConfig, ProfileSchema, fit_profiles
from p5jax.ppr.soft.t5_backbone import (
    ARGUMENTS,
    PROMPT_ID,
    TRAINABLE,
    SoftBackbone,
    SoftRun,
)
from p5jax.runs.run import Run
from p5jax.training.checkpoints import available_steps, restore_params
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.plan import check_metric
from p5jax.training.trainer import CHECKPOINT_FOLDER, TrainConfig, train
from p5jax.triggers.prompt import Identity, run_fingerprints

SCHEMA = "profiles.json"


class _Text(TypedDict):
    text: str
    rank_users: Count


class _Settings(TypedDict):
    SoftConfig: _Text
    PromptConfig: PromptConfig
    ProfileConfig: ProfileConfig
    PipelineConfig: PipelineConfig
    OptimizerConfig: OptimizerConfig
    TrainConfig: TrainConfig


class _Manifest(TypedDict):
    identity: Identity
    profile: ProfileSchema
    settings: _Settings


SOFT_PROMPT = OutputFolder(
    *("soft prompt", "soft.json", 1, "p5jax ppr soft"),
    begun=(SCHEMA,),
    contents=_Manifest,
    steps="settings.TrainConfig.steps",
)


@dataclass(frozen=True)
class SoftConfig:
    """Which run a soft prompt is trained for; `run` and `out` must be set.

    run: the P5 run's folder; out: the prompt's own. text: what follows the prefix, the id of one of
    the run's sequential prompts or "arguments", the text of a trigger prompt without its trigger
    words. rank_users: how many validation users are ranked for validation/NDCG@10.
    """

    run: str
    out: str
    text: str = ARGUMENTS
    rank_users: int = 500

    def __post_init__(self) -> None:
        check(self, rank_users=SIZE)


@released()
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
    check_metric(training.best_metric, validation_metrics(run.dataset.num_items))
    folder, schema = Path(soft.out), fit_profiles(run.dataset, _everyone(run), profile)
    settings = _settings(soft, prompt, profile, pipeline, optimizer, training)
    manifest = {"identity": run_fingerprints(run), "profile": asdict(schema), "settings": settings}
    distributed.from_primary(lambda: _claim(folder, manifest, schema))
    backbone = SoftBackbone(run, prompt, schema.profiles(run.dataset), soft.text)
    mesh = run.mesh or make_mesh()
    train(
        backbone.objective(),
        {"t5": run.params, "soft": backbone.initial(training.seed)},
        {"t5": param_axes(run.model), "soft": backbone.axes()},
        soft_iterator(backbone, pipeline, *process_share(mesh)),
        optimizer,
        mesh,
        training,
        folder,
        fingerprint=settings,
        validate=_validator(backbone, soft.rank_users, folder),
        trainable=TRAINABLE,
        begun=lambda: distributed.from_primary(lambda: SOFT_PROMPT.write(folder, manifest)),
    )


def soft_iterator(
    backbone: SoftBackbone,
    config: PipelineConfig,
    process_index: int = 0,
    process_count: int = 1,
) -> BatchIterator:
    """Iterate over training batches with the user of each row: t5x's arrays and int32 "users" [B].

    config.source_lengths count the prefix and the text. UserError for packed batches, whose rows
    have several users, and for shards, which keep none.
    """
    if config.batching == "packed":
        raise UserError("PipelineConfig.batching: found packed, expected longest or buckets")
    if config.batching == "auto":
        config = replace(config, batching="buckets")
    if config.shards:
        raise UserError(f"PipelineConfig.shards: found {config.shards}, expected none")
    longest = backbone.run.family_config.max_source
    texts = (length - backbone.length for length in config.source_lengths)
    lengths = tuple(length for length in texts if 0 < length < longest)
    windows = _PrefixedWindows(backbone, replace(config, source_lengths=(*lengths, longest)))
    return BatchIterator(windows, process_index, process_count)


class _PrefixedWindows(Windows):
    """Windows of sources that have a soft prefix before them."""

    def __init__(self, backbone: SoftBackbone, config: PipelineConfig) -> None:
        super().__init__(backbone.families, backbone.run.vocabulary, config, users=True)
        self._length = backbone.length

    def identity(self) -> dict[str, Any]:
        """Return what decides the stream, the prefix included, as earlier versions say it."""
        own = super().identity()
        lengths = [length + self._length for length in self.config.source_lengths]
        vocabulary = f"{own['vocabulary']}+{self._length}"
        return own | {"source_lengths": lengths, "vocabulary": vocabulary}


def load_soft(folder: str | os.PathLike[str], run: Run) -> SoftRun:
    """Open a soft prompt's folder for its run; UserError when it is another's, or unfinished."""
    folder = Path(folder)
    manifest = SOFT_PROMPT.read(folder)
    for name, expected in run_fingerprints(run).items():
        if manifest["identity"][name] != expected:
            was = manifest["identity"][name][:12]
            raise UserError(
                f"{folder}: its prompt was trained with {name} {was}, this run has {expected[:12]}"
            )
    settings = manifest["settings"]
    checkpoints = folder / CHECKPOINT_FOLDER
    if settings["TrainConfig"]["steps"] not in available_steps(checkpoints):
        raise UserError(f"{folder}: found an unfinished training; {SOFT_PROMPT.command} resumes it")
    schema = ProfileSchema.load(folder / SCHEMA)
    if as_json(asdict(schema)) != manifest["profile"]:
        raise UserError(f"{folder / SCHEMA}: differs from what the prompt was trained with")
    prompt = built(folder, PromptConfig, settings["PromptConfig"])
    text = settings["SoftConfig"]["text"]
    backbone = SoftBackbone(run, prompt, schema.profiles(run.dataset), text)
    shapes = {"t5": run.params, "soft": jax.eval_shape(lambda: backbone.initial(0))}
    return backbone.with_params(restore_params(checkpoints, shapes)["soft"], folder)


def _claim(folder: Path, manifest: dict[str, Any], schema: ProfileSchema) -> None:
    """Make the folder, or see that it is this training's."""
    started = bool(available_steps(folder / CHECKPOINT_FOLDER))
    SOFT_PROMPT.claim(folder, manifest, started=started)
    schema.save(folder / SCHEMA)
    if not started:
        SOFT_PROMPT.write(folder, manifest)


def _settings(
    soft: SoftConfig,
    prompt: PromptConfig,
    profile: ProfileConfig,
    pipeline: PipelineConfig,
    optimizer: OptimizerConfig,
    training: TrainConfig,
) -> dict[str, Any]:
    """What a prompt depends on, JSON-able: a resumed training must have the same."""
    parts = {
        "SoftConfig": asdict(soft),
        "PromptConfig": asdict(prompt),
        "ProfileConfig": asdict(profile),
        "PipelineConfig": asdict(pipeline),
        "OptimizerConfig": asdict(optimizer),
        "TrainConfig": training.identity(),
    }
    for name in ("run", "out"):  # the run is known by its parameters
        del parts["SoftConfig"][name]
    for name in ("threads", "workers"):
        del parts["PipelineConfig"][name]
    settings: dict[str, Any] = as_json(parts)
    return settings


def _everyone(run: Run) -> np.ndarray:
    return np.arange(run.dataset.num_users)


def _validator(
    backbone: SoftBackbone, limit: int, folder: Path
) -> Callable[[Params, int], dict[str, float]]:
    """Return a function (params, step) -> whole-catalogue metrics of some validation users."""

    def validate(params: Params, step: int) -> dict[str, float]:
        run = backbone.with_params(params["soft"], folder)
        return validation_ranking(run, PROMPT_ID, limit)

    return validate
