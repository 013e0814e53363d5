"""One training of a soft prompt on a frozen P5 run, from gin files (see ppr.soft)."""

from __future__ import annotations

from p5jax.core import config
from p5jax.jobs.start import Bindings, PathName, configure, data_mesh
from p5jax.parallel.partitioning import MeshConfig
from p5jax.pipeline.config import PipelineConfig
from p5jax.ppr.generator import PromptConfig
from p5jax.ppr.profiles import ProfileConfig
from p5jax.ppr.soft.training import SoftConfig, train_soft
from p5jax.runs.run import Run
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.trainer import TrainConfig

CONFIGS = (
    *(SoftConfig, PromptConfig, ProfileConfig, PipelineConfig, OptimizerConfig, MeshConfig),
    TrainConfig,
)


def soft(*gin_files: PathName, bindings: Bindings | None = None, **macros: object) -> None:
    """Train, or resume, the soft prompt that gin files and the values given describe.

    Arguments and errors as jobs.train.train's, RUN and OUT among the macros.
    """
    configure(CONFIGS, gin_files, bindings, macros)
    asked = config.build(SoftConfig)
    train_soft(
        Run.load(asked.run, data_mesh()),
        asked,
        config.build(PromptConfig),
        config.build(ProfileConfig),
        config.build(PipelineConfig),
        config.build(OptimizerConfig),
        config.build(TrainConfig),
    )
