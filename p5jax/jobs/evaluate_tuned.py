"""Tuned models on the cold test users of their protocol, beside their backbone and popularity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from p5jax.core.errors import Unwritten, UserError
from p5jax.core.lock import hold, released
from p5jax.data.dataset import Dataset
from p5jax.jobs.start import PathName
from p5jax.parallel import distributed, runtime
from p5jax.parallel.partitioning import MeshConfig, make_mesh
from p5jax.ppr.backbone.catalogue import Scorer
from p5jax.ppr.backbone.run import PprRun
from p5jax.ppr.cold.evaluation import evaluate_cold
from p5jax.ppr.cold.protocol import ColdStartConfig, cold_start
from p5jax.ppr.cold.results import write_per_user
from p5jax.ppr.cold_study import PRETRAINED
from p5jax.ppr.tuned import Tuned


@dataclass(frozen=True)
class ColdResults:
    """Per-user results of tuned models beside their backbone, and the backbone's dataset.

    reference: the method that the others are compared with.
    """

    table: pa.Table
    reference: str
    dataset: Dataset


@released()
def evaluate_tuned(
    run: PathName, tuned: Sequence[PathName], *, model_parallel: int = 1
) -> ColdResults:
    """Evaluate tuned models of the backbone in the folder `run`; the first is the reference.

    The results of each user are written to RUN/evaluation/cold.parquet. UserError when the
    protocols of the models differ, two have one name, or one is tuned from another backbone;
    Unwritten, with the results, when they cannot be written.
    """
    runtime.set_up()
    backbone = PprRun.load(run, make_mesh(MeshConfig(model=model_parallel)))
    loaded = [Tuned.load(path, backbone) for path in tuned]
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
    split = cold_start(backbone.dataset, ColdStartConfig(**protocol))
    if not backbone.trained_on(split.warm):
        raise UserError(
            f"{backbone.path}: pre-trained on other users than the warm ones of {tuned[0]}"
        )
    file = backbone.path / "evaluation" / "cold.parquet"
    distributed.from_primary(lambda: hold(file.parent))
    table = evaluate_cold(split, {**scorers, PRETRAINED: backbone.scorer})
    found = ColdResults(table, loaded[0].path.name, backbone.dataset)
    try:
        distributed.from_primary(lambda: write_per_user(file, table))
    except (OSError, UserError) as error:
        raise Unwritten(error, found) from error
    return found
