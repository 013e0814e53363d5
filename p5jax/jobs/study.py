"""A whole cold-start study, from gin files (see ppr.cold_study)."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from p5jax.core import config
from p5jax.data.dataset import Dataset
from p5jax.jobs.pretrain import pretraining_from_gin
from p5jax.jobs.start import Bindings, PathName, configure, data_mesh, refuse_leaks
from p5jax.jobs.tune import CONFIGS as TUNING
from p5jax.ppr import cold_study
from p5jax.ppr.backbone.model import BackboneConfig
from p5jax.ppr.backbone.pretraining import LossConfig
from p5jax.ppr.backbone.run import PprRun
from p5jax.ppr.backbone.sequences import SequenceConfig
from p5jax.ppr.backbone.views import ViewConfig
from p5jax.ppr.cold.protocol import ColdStartConfig
from p5jax.ppr.generator import PromptConfig
from p5jax.ppr.profiles import ProfileConfig
from p5jax.ppr.tuning import TuneConfig
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.trainer import TrainConfig

CONFIGS = (
    *(*TUNING, BackboneConfig, LossConfig, SequenceConfig, ViewConfig),
    *(OptimizerConfig, TrainConfig),
)
GIN_FILE = "ppr/study.gin"


def study(
    dataset: PathName,
    out: PathName,
    *gin_files: PathName,
    seeds: int = cold_study.StudyConfig.seeds,
    ablate: Sequence[str] = (),
    noise: bool = False,
    source: PathName | None = None,
    bindings: Bindings | None = None,
    **macros: object,
) -> pa.Table:
    """Run, or resume, a study on a dataset folder; return the results of each user, all seeds.

    gin_files: ppr/study.gin unless others are named. ablate: of ppr.cold_study.STUDY_ABLATIONS.
    noise: also tune with 10 to 50 % of the attributes replaced. source: the folder of another
    dataset's backbone, for a cross-domain study. UserError for a dataset that leaks, and when
    `out` holds a study of other data or settings. Interrupted after an orderly stop by a signal.
    """
    configure(CONFIGS, gin_files or (GIN_FILE,), bindings, macros)
    data = refuse_leaks(Dataset.load(dataset))
    settings = cold_study.StudyConfig(
        seeds=seeds,
        ablate=tuple(ablate),
        noise=cold_study.NOISE if noise else (),
        protocol=config.build(ColdStartConfig),
        profile=config.build(ProfileConfig),
        pretraining=pretraining_from_gin(),
        tune=config.build(TuneConfig),
        prompt=config.build(PromptConfig),
    )
    mesh = data_mesh()
    other = None if source is None else PprRun.load(source, mesh)
    return cold_study.study(data, settings, str(out), source=other, mesh=mesh)
