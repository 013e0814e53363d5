"""One evaluation of a backbone over the whole catalogue, beside the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from p5jax.core.errors import Unwritten
from p5jax.evaluation.results import FamilyResult
from p5jax.jobs.start import PathName
from p5jax.parallel import runtime
from p5jax.parallel.partitioning import MeshConfig, make_mesh
from p5jax.ppr.backbone.run import PprRun


@dataclass(frozen=True)
class BackboneResults:
    """Results of a backbone and the baselines, and whether the item ids leak."""

    results: Sequence[FamilyResult]
    leaky: bool


def evaluate_backbone(
    run: PathName, split: str = "test", *, model_parallel: int = 1
) -> BackboneResults:
    """Evaluate the backbone in the folder `run`, as PprRun.evaluate."""
    runtime.set_up()
    backbone = PprRun.load(run, make_mesh(MeshConfig(model=model_parallel)))
    leaky = backbone.dataset.leaky
    try:
        return BackboneResults(backbone.evaluate(split), leaky)
    except Unwritten as error:
        raise Unwritten(error, BackboneResults(error.value, leaky)) from error
