"""Profile prediction from gin files (see ppr.profile_classifier)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from p5jax.core import config
from p5jax.parallel import distributed, runtime
from p5jax.parallel.partitioning import MeshConfig, make_mesh
from p5jax.ppr.backbone.run import PprRun
from p5jax.ppr.cold.protocol import ColdStartConfig, cold_start
from p5jax.ppr.cold.results import write_per_user
from p5jax.ppr.generator import PromptConfig
from p5jax.ppr.prediction.classifier import PredictionConfig, predict_attribute
from p5jax.ppr.prediction.task import format_prediction, prediction_table, prediction_task
from p5jax.ppr.profiles import ProfileConfig, fit_profiles

PER_USER = "per_user.parquet"
CONFIGS = (PredictionConfig, ColdStartConfig, ProfileConfig, PromptConfig, MeshConfig)


def predict_from_gin(
    folder: str,
    attribute: str,
    out: str,
    mode: str | None,
    seed: int | None,
    gin_files: Sequence[str],
    overrides: Sequence[str] = (),
) -> str:
    """Train, or resume, a classifier on the backbone in `folder` and test it on cold users.

    Returns the metrics as text. The test users' classes go to OUT/per_user.parquet. `mode` and
    `seed` (also the protocol's), where given, replace gin's.
    """
    config.register_configs(*CONFIGS)
    config.configure(gin_files, overrides)
    runtime.set_up()
    protocol, settings = config.build(ColdStartConfig), config.build(PredictionConfig)
    if seed is not None:
        protocol, settings = replace(protocol, seed=seed), replace(settings, seed=seed)
    if mode is not None:
        settings = replace(settings, mode=mode)
    run = PprRun.load(folder, make_mesh(config.build(MeshConfig)))
    split = cold_start(run.dataset, protocol)
    schema = fit_profiles(run.dataset, split.training_users, config.build(ProfileConfig))
    task = prediction_task(split, schema.profiles(run.dataset), attribute)
    prompt = config.build(PromptConfig)
    classes = predict_attribute(run, split, task, out, settings, prompt)
    table = prediction_table(task, classes)
    distributed.from_primary(lambda: write_per_user(Path(out) / PER_USER, table))
    return format_prediction(attribute, table)
