"""One prediction of a profile attribute, from gin files (see ppr.prediction)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from p5jax.core import config
from p5jax.core.errors import Unwritten, UserError
from p5jax.jobs.start import Bindings, PathName, configure, data_mesh
from p5jax.parallel import distributed
from p5jax.parallel.partitioning import MeshConfig
from p5jax.ppr.backbone.run import PprRun
from p5jax.ppr.cold.protocol import ColdStartConfig, cold_start
from p5jax.ppr.cold.results import write_per_user
from p5jax.ppr.generator import PromptConfig
from p5jax.ppr.prediction.classifier import PredictionConfig, predict_attribute
from p5jax.ppr.prediction.task import prediction_table, prediction_task
from p5jax.ppr.profiles import ProfileConfig, fit_profiles

PER_USER = "per_user.parquet"
CONFIGS = (PredictionConfig, ColdStartConfig, ProfileConfig, PromptConfig, MeshConfig)
GIN_FILE = "ppr/predict.gin"


def predict(
    run: PathName,
    attribute: str,
    out: PathName,
    *gin_files: PathName,
    mode: str | None = None,
    seed: int | None = None,
    bindings: Bindings | None = None,
    **macros: object,
) -> pa.Table:
    """Train, or resume, a classifier on the backbone in the folder `run`; test it on cold users.

    Returns the test users' classes, which are also written to OUT/per_user.parquet, for
    ppr.prediction.task.format_prediction. gin_files: ppr/predict.gin unless others are named.
    `mode` and `seed` (also the protocol's), where given, replace gin's. UserError and Interrupted
    as jobs.tune.tune; Unwritten, with the classes, when they cannot be written.
    """
    configure(CONFIGS, gin_files or (GIN_FILE,), bindings, macros)
    protocol, settings = config.build(ColdStartConfig), config.build(PredictionConfig)
    if seed is not None:
        protocol, settings = replace(protocol, seed=seed), replace(settings, seed=seed)
    if mode is not None:
        settings = replace(settings, mode=mode)
    backbone = PprRun.load(run, data_mesh())
    split = cold_start(backbone.dataset, protocol)
    schema = fit_profiles(backbone.dataset, split.training_users, config.build(ProfileConfig))
    task = prediction_task(split, schema.profiles(backbone.dataset), attribute)
    prompt = config.build(PromptConfig)
    classes = predict_attribute(backbone, split, task, os.fspath(out), settings, prompt)
    table = prediction_table(task, classes)
    try:
        distributed.from_primary(lambda: write_per_user(Path(out) / PER_USER, table))
    except (OSError, UserError) as error:
        raise Unwritten(error, table) from error
    return table
