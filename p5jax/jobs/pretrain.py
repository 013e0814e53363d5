"""One pre-training of a backbone, from gin files (see ppr.backbone.pretraining)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from p5jax.core import config
from p5jax.core.settings import COUNT, check
from p5jax.data.dataset import Dataset
from p5jax.jobs.start import Bindings, PathName, configure, keep_config, refuse_leaks
from p5jax.parallel.partitioning import MeshConfig, make_mesh
from p5jax.ppr.backbone import pretraining
from p5jax.ppr.backbone.model import BackboneConfig
from p5jax.ppr.backbone.pretraining import LossConfig, PretrainConfig
from p5jax.ppr.backbone.run import PprRun
from p5jax.ppr.backbone.sequences import SequenceConfig
from p5jax.ppr.backbone.start import STARTS
from p5jax.ppr.backbone.views import ViewConfig
from p5jax.ppr.cold.protocol import ColdStartConfig, cold_start
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.trainer import TrainConfig


@dataclass(frozen=True)
class PprConfig:
    """What is pre-trained on and where it is kept; both must be set.

    users: "all", or the "warm" ones of ColdStartConfig, for tuning on cold ones.
    start, validation_users: see ppr.backbone.pretraining.PretrainConfig.
    """

    dataset: str
    run_dir: str
    users: str = "all"
    start: str = "counts"
    validation_users: int = 1000

    def __post_init__(self) -> None:
        check(self, users=("all", "warm"), start=STARTS, validation_users=COUNT)


CONFIGS = (
    *(PprConfig, BackboneConfig, LossConfig, SequenceConfig, ViewConfig),
    *(ColdStartConfig, OptimizerConfig, MeshConfig, TrainConfig),
)


def pretrain(*gin_files: PathName, bindings: Bindings | None = None, **macros: object) -> PprRun:
    """Pre-train, or resume, the backbone that gin files and the values given describe; return it.

    Arguments and errors as jobs.train.train's.
    """
    configure(CONFIGS, gin_files, bindings, macros)
    asked, mesh = config.build(PprConfig), config.build(MeshConfig)
    settings = replace(
        pretraining_from_gin(),
        start=asked.start,
        validation_users=asked.validation_users,
        fsdp=mesh.fsdp,
    )
    dataset = refuse_leaks(Dataset.load(asked.dataset))
    warm = None
    if asked.users == "warm":
        warm = cold_start(dataset, config.build(ColdStartConfig)).warm
    return pretraining.pretrain(
        dataset, settings, asked.run_dir, warm, make_mesh(mesh), begun=keep_config
    )


def pretraining_from_gin() -> PretrainConfig:
    """The pre-training that gin describes."""
    return PretrainConfig(
        backbone=config.build(BackboneConfig, num_items=0),
        loss=config.build(LossConfig),
        sequences=config.build(SequenceConfig),
        views=config.build(ViewConfig),
        optimizer=config.build(OptimizerConfig),
        training=config.build(TrainConfig),
    )
