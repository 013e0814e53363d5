"""One tuning of a backbone on cold users, from gin files (see ppr.tuned)."""

from __future__ import annotations

from dataclasses import replace

from p5jax.core import config
from p5jax.jobs.start import Bindings, PathName, configure, data_mesh
from p5jax.parallel.partitioning import MeshConfig
from p5jax.ppr import tuned
from p5jax.ppr.backbone.run import PprRun
from p5jax.ppr.cold.protocol import ColdStartConfig, cold_start
from p5jax.ppr.generator import PromptConfig
from p5jax.ppr.profiles import ProfileConfig, fit_profiles
from p5jax.ppr.tuning import TuneConfig

CONFIGS = (ColdStartConfig, ProfileConfig, TuneConfig, PromptConfig, MeshConfig)
GIN_FILE = "ppr/tune.gin"


def tune(
    run: PathName,
    out: PathName,
    *gin_files: PathName,
    mode: str | None = None,
    seed: int | None = None,
    bindings: Bindings | None = None,
    **macros: object,
) -> tuned.Tuned:
    """Tune, or resume, a model from the backbone in the folder `run`; return it.

    gin_files: ppr/tune.gin unless others are named. `mode` and `seed` (also the protocol's),
    where given, replace gin's. UserError when the backbone has seen cold users, and when `out`
    holds something else. Interrupted after an orderly stop by a signal.
    """
    configure(CONFIGS, gin_files or (GIN_FILE,), bindings, macros)
    protocol, settings = config.build(ColdStartConfig), config.build(TuneConfig)
    if seed is not None:
        protocol = replace(protocol, seed=seed)
        settings = replace(settings, seed=seed, noise_seed=seed)
    if mode is not None:
        settings = replace(settings, mode=mode)
    backbone = PprRun.load(run, data_mesh())
    split = cold_start(backbone.dataset, protocol)
    schema = fit_profiles(backbone.dataset, split.training_users, config.build(ProfileConfig))
    return tuned.tune(backbone, split, schema, settings, config.build(PromptConfig), out)
