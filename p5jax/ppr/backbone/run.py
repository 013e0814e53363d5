"""The folder of a pre-trained backbone: what it was made from, and its parameters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypedDict

import jax
import numpy as np
from jax.sharding import Mesh

from p5jax.core.folder import OutputFolder, as_json
from p5jax.core.kinds import Count, built
from p5jax.data.dataset import Dataset
from p5jax.evaluation.baselines.ranking import RankingBaselines
from p5jax.evaluation.baselines.results import catalogue_baselines
from p5jax.evaluation.figures import warm_results, with_warmth
from p5jax.evaluation.keeping import keep_results, reserve
from p5jax.evaluation.results import FamilyResult
from p5jax.models.initial import Params
from p5jax.parallel import distributed
from p5jax.ppr.backbone.catalogue import BackboneScorer, catalogue_result
from p5jax.ppr.backbone.model import Backbone, BackboneConfig, backbone_axes, backbone_params
from p5jax.ppr.backbone.sequences import users_fingerprint
from p5jax.runs.manifest import DatasetEntry, dataset_entry, load_dataset
from p5jax.training.checkpoints import available_steps, params_fingerprint, restore_on_mesh
from p5jax.training.trainer import CHECKPOINT_FOLDER


class _Users(TypedDict):
    count: Count
    hash: str


class _Manifest(TypedDict):
    dataset: DatasetEntry
    users: _Users
    backbone: BackboneConfig
    settings: dict[str, Any]


BACKBONE_RUN = OutputFolder(
    *("pre-trained backbone", "ppr.json", 2, "p5jax ppr pretrain"),
    contents=_Manifest,
    steps="settings.training.steps",
)


class PprRun:
    """One pre-trained backbone, loaded: dataset, model and (lazily) its best parameters."""

    def __init__(
        self, path: Path, manifest: dict[str, Any], dataset: Dataset, mesh: Mesh | None = None
    ) -> None:
        self.path, self.manifest, self.dataset, self.mesh = path, manifest, dataset, mesh
        self.model = Backbone(built(path, BackboneConfig, manifest["backbone"]))

    @cached_property
    def params(self) -> Params:
        """The best checkpoint's parameters, on the mesh by their logical axes if there is one."""
        shapes = jax.eval_shape(partial(backbone_params, self.model), jax.random.key(0))
        axes = backbone_axes(self.model)
        return dict(restore_on_mesh(self.path / CHECKPOINT_FOLDER, shapes, axes, self.mesh))

    @cached_property
    def scorer(self) -> BackboneScorer:
        """The backbone as a scorer of any histories."""
        return BackboneScorer(self.model, self.params)

    def trained_on(self, users: np.ndarray) -> bool:
        """Whether these are the users that the backbone was pre-trained on."""
        return str(self.manifest["users"]["hash"]) == users_fingerprint(users)

    @staticmethod
    def create(
        path: str | os.PathLike[str],
        dataset: Dataset,
        users: np.ndarray,
        backbone: Mapping[str, Any],
        settings: Mapping[str, Any],
        mesh: Mesh | None = None,
    ) -> PprRun:
        """Make a new folder, or open the one there when it was made from the same things.

        The folder stays locked (see core.lock). UserError, naming the first difference, when the
        folder there was made from others.
        """
        path = Path(path).absolute()
        manifest = as_json(
            {
                "dataset": dataset_entry(dataset, path),
                "users": {"count": len(users), "hash": users_fingerprint(users)},
                "backbone": dict(backbone),
                "settings": dict(settings),
            }
        )

        def make() -> None:
            started = bool(available_steps(path / CHECKPOINT_FOLDER))
            BACKBONE_RUN.claim(path, manifest, started=started)
            if not started:
                BACKBONE_RUN.write(path, manifest)

        distributed.from_primary(make)
        return PprRun(path, manifest, dataset, mesh)

    def write(self) -> None:
        """Write the manifest, which a run that is there may lack: its dataset may have moved."""
        distributed.from_primary(lambda: BACKBONE_RUN.write(self.path, self.manifest))

    @staticmethod
    def load(path: str | os.PathLike[str], mesh: Mesh | None = None) -> PprRun:
        """Open a folder; UserError when it is not one or its dataset does not match."""
        path = Path(path)
        manifest = BACKBONE_RUN.read(path)
        return PprRun(path, manifest, load_dataset(path, manifest), mesh)

    def evaluate(self, split: str = "test", users: np.ndarray | None = None) -> list[FamilyResult]:
        """Rank the whole catalogue for the split's pairs, by the backbone and the baselines.

        For all users (`users` None) the results are written to RUN/evaluation/<split>/, in the form
        of p5jax evaluate's.
        """
        folder = self.path / "evaluation" / split
        if users is None:
            header = {
                "split": split,
                "dataset": self.dataset.name,
                "dataset_fingerprint": self.dataset.fingerprint,
                "leaky_item_ids": self.dataset.leaky,
                "params": params_fingerprint(self.params),
            }
            reserve(folder, header)
        width = self.model.config.max_history
        result = catalogue_result(self.scorer, "backbone", self.dataset, split, users, width=width)
        ranking = RankingBaselines(self.dataset, distributed.report)
        results = [result, *catalogue_baselines(ranking, result, split)]
        if self.dataset.cuts:
            results = [with_warmth(each, self.dataset) for each in results]
            results += warm_results(results, self.dataset.num_items)
        if users is None:
            keep_results(folder, results, header)
        return results


def backbone_entry(run: PprRun, folder: Path) -> dict[str, str]:
    """Return the backbone's entry in the manifest of `folder`."""
    path = run.path.resolve()
    return {
        "path": str(path),
        "relative": os.path.relpath(path, folder.resolve()),
        "params": params_fingerprint(run.params),
    }
