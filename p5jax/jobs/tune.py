"""Soft prompts from gin files: a tuning, a whole study, and a soft prompt on a P5 run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
from jax.sharding import Mesh

from p5jax.core import config
from p5jax.core.errors import UserError
from p5jax.data.dataset import Dataset
from p5jax.jobs.pretrain import pretraining_from_gin, sound_dataset
from p5jax.parallel import distributed, runtime
from p5jax.parallel.partitioning import MeshConfig, make_mesh
from p5jax.pipeline.config import PipelineConfig
from p5jax.ppr.backbone.model import BackboneConfig
from p5jax.ppr.backbone.pretraining import LossConfig
from p5jax.ppr.backbone.run import PprRun
from p5jax.ppr.backbone.sequences import SequenceConfig
from p5jax.ppr.backbone.views import ViewConfig
from p5jax.ppr.cold.evaluation import Scorer, evaluate
from p5jax.ppr.cold.protocol import ColdStartConfig, cold_start
from p5jax.ppr.cold.results import write_per_user
from p5jax.ppr.cold_study import PRETRAINED, StudyConfig, study
from p5jax.ppr.generator import PromptConfig
from p5jax.ppr.profiles import ProfileConfig, fit_profiles
from p5jax.ppr.soft.training import SoftConfig, train_soft
from p5jax.ppr.tuned import Tuned, tune
from p5jax.ppr.tuning import TuneConfig
from p5jax.runs.run import Run
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.trainer import TrainConfig

_COLD = (ColdStartConfig, ProfileConfig, TuneConfig, PromptConfig, MeshConfig)
_PRETRAINING = (
    *(BackboneConfig, LossConfig, SequenceConfig, ViewConfig),
    *(OptimizerConfig, TrainConfig),
)


def tune_from_gin(
    folder: str,
    out: str,
    mode: str | None,
    seed: int | None,
    gin_files: Sequence[str],
    overrides: Sequence[str] = (),
) -> Tuned:
    """Tune, or resume, a model from the backbone in `folder`; Interrupted by a signal.

    `mode` and `seed` (also the protocol's), where given, replace gin's.
    """
    _configure(_COLD, gin_files, overrides)
    protocol, settings = config.build(ColdStartConfig), config.build(TuneConfig)
    if seed is not None:
        protocol = replace(protocol, seed=seed)
        settings = replace(settings, seed=seed, noise_seed=seed)
    if mode is not None:
        settings = replace(settings, mode=mode)
    run = PprRun.load(folder, _mesh())
    split = cold_start(run.dataset, protocol)
    schema = fit_profiles(run.dataset, split.training_users, config.build(ProfileConfig))
    prompt = config.build(PromptConfig)
    return tune(run, split, schema, settings, prompt, out)


def study_from_gin(
    dataset: str,
    out: str,
    seeds: int,
    ablate: Sequence[str],
    noise: Sequence[float],
    source: str | None,
    gin_files: Sequence[str],
    overrides: Sequence[str] = (),
) -> pa.Table:
    """Run, or resume, a study; returns per-user results of all seeds.

    `source` is the folder of another dataset's backbone, for a cross-domain study.
    """
    _configure((*_COLD, *_PRETRAINING), gin_files, overrides)
    data, pretraining = sound_dataset(dataset), pretraining_from_gin()
    settings = StudyConfig(
        *(seeds, tuple(ablate), tuple(noise)),
        config.build(ColdStartConfig),
        config.build(ProfileConfig),
        pretraining,
        config.build(TuneConfig),
        config.build(PromptConfig),
    )
    mesh = _mesh()
    other = None if source is None else PprRun.load(source, mesh)
    return study(data, settings, out, source=other, mesh=mesh)


@dataclass(frozen=True)
class ColdResults:
    """Per-user results of tuned models beside their backbone, and the backbone's dataset."""

    table: pa.Table
    reference: str
    dataset: Dataset


def evaluate_tuned(folder: str, tuned: Sequence[str], mesh: MeshConfig) -> ColdResults:
    """Evaluate tuned models on the test users of their protocol, with popularity and the backbone.

    The results of each user are written to RUN/evaluation/cold.parquet.
    The first is what the others are compared with. UserError when their protocols differ, two have
    one name, or one is tuned from another backbone.
    """
    run = PprRun.load(folder, make_mesh(mesh))
    loaded = [Tuned.load(path, run) for path in tuned]
    scorers: dict[str, Scorer] = {}
    for model in loaded:
        name = model.path.name
        if name in scorers or name == PRETRAINED:
            raise UserError(f"{model.path}: found {name} twice, expected each name once")
        if model.manifest["protocol"] != loaded[0].manifest["protocol"]:
            raise UserError(f"{model.path}: found another protocol than in {loaded[0].path}")
        scorers[name] = model.scorer
    protocol = dict(loaded[0].manifest["protocol"])
    protocol["k_shots"] = tuple(protocol["k_shots"])
    split = cold_start(run.dataset, ColdStartConfig(**protocol))
    if not run.trained_on(split.warm):
        raise UserError(f"{run.path}: pre-trained on other users than the warm ones of {tuned[0]}")
    table = evaluate(split, {**scorers, PRETRAINED: run.scorer})
    file = run.path / "evaluation" / "cold.parquet"
    distributed.from_primary(lambda: write_per_user(file, table))
    return ColdResults(table, loaded[0].path.name, run.dataset)


def soft_from_gin(gin_files: Sequence[str], overrides: Sequence[str] = ()) -> None:
    """Train, or resume, a soft prompt on a P5 run; Interrupted by a signal."""
    _configure(
        (SoftConfig, PromptConfig, ProfileConfig, PipelineConfig, OptimizerConfig, MeshConfig)
        + (TrainConfig,),
        gin_files,
        overrides,
    )
    soft = config.build(SoftConfig)
    run = Run.load(soft.run, _mesh())
    train_soft(
        run,
        soft,
        config.build(PromptConfig),
        config.build(ProfileConfig),
        config.build(PipelineConfig),
        config.build(OptimizerConfig),
        config.build(TrainConfig),
    )


def _mesh() -> Mesh:
    """The mesh that gin asks for; these models are too small to be split by fsdp."""
    asked = config.build(MeshConfig)
    if asked.fsdp:
        raise UserError("MeshConfig.fsdp: found True, expected False for prompts from profiles")
    return make_mesh(asked)


def _configure(classes: Sequence[type], gin_files: Sequence[str], overrides: Sequence[str]) -> None:
    config.register_configs(*classes)
    config.configure(gin_files, overrides)
    runtime.set_up()
