"""Pre-training of a backbone on the sequences of chosen users, by the ordinary trainer."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from p5jax.core.errors import UserError
from p5jax.core.folder import as_json
from p5jax.core.lock import released
from p5jax.core.settings import COUNT, above, check
from p5jax.data.dataset import Dataset
from p5jax.evaluation.rank_metrics import hit_rate, ndcg
from p5jax.models.initial import Params
from p5jax.parallel.partitioning import MeshConfig, make_mesh, process_share
from p5jax.ppr.backbone.catalogue import BackboneScorer, catalogue_ranks
from p5jax.ppr.backbone.losses import bpr, contrastive, cross_entropy, sampled_cross_entropy
from p5jax.ppr.backbone.model import Backbone, BackboneConfig, backbone_axes, backbone_params
from p5jax.ppr.backbone.run import PprRun
from p5jax.ppr.backbone.sequences import SequenceConfig, SequenceIterator
from p5jax.ppr.backbone.start import STARTS, counted_embeddings
from p5jax.ppr.backbone.views import ViewConfig, random_view
from p5jax.training.objective import DeviceBatch, Objective
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.plan import check_metric
from p5jax.training.trainer import TrainConfig, train

LOSSES = ("cross_entropy", "sampled", "bpr")
# Adam as published; the best model by its ranking of validation pairs.
_METRICS = ("validation/HR@10", "validation/NDCG@10")
OPTIMIZER = OptimizerConfig(schedule="constant", weight_decay=0.0)
TRAINING = TrainConfig(
    steps=5000, validate_every=500, best_metric="validation/NDCG@10", best_mode="max"
)


@dataclass(frozen=True)
class LossConfig:
    """What pre-training minimises: a next-item loss, averaged over positions.

    loss: "cross_entropy" over all items, "sampled" over the negatives of SequenceConfig, or "bpr".
    contrastive_weight: of CL4SRec's loss, added to it (0: SASRec); temperature: of that loss.
    """

    loss: str = "cross_entropy"
    contrastive_weight: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check(self, loss=LOSSES, contrastive_weight=COUNT, temperature=above(0))


@dataclass(frozen=True)
class PretrainConfig:
    """All settings of a pre-training; the dataset gives the backbone its number of items.

    start: of the items' embeddings, "counts" of which stand near each other (see start) or "noise".
    validation_users: how many users, always the same, rank the whole catalogue on their validation
    pairs for validation/HR@10 and NDCG@10 (0: none).
    """

    backbone: BackboneConfig = field(default_factory=partial(BackboneConfig, num_items=0))
    loss: LossConfig = field(default_factory=LossConfig)
    sequences: SequenceConfig = field(default_factory=SequenceConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    optimizer: OptimizerConfig = OPTIMIZER
    training: TrainConfig = TRAINING
    start: str = "counts"
    validation_users: int = 1000
    fsdp: bool = False

    def __post_init__(self) -> None:
        check(self, start=STARTS, validation_users=COUNT)
        negatives = self.sequences.negatives
        if (self.loss.loss == "cross_entropy") != (negatives == 0):
            expected = "0" if negatives else "1 or more"
            raise UserError(
                f"SequenceConfig.negatives: found {negatives}, expected {expected} for the loss"
                f" {self.loss.loss}"
            )


@released()
def pretrain(
    dataset: Dataset,
    config: PretrainConfig,
    run_dir: str | os.PathLike[str],
    users: np.ndarray | None = None,
    mesh: Mesh | None = None,
    begun: Callable[[Path], object] | None = None,
) -> PprRun:
    """Pre-train, or resume, a backbone on the training items of `users` (default: all).

    The last two interactions of each user are never trained on. Returns the run, whose parameters
    are the best checkpoint's. `begun` is called with the run's folder once the run is accepted.
    Interrupted by a signal. UserError when run_dir holds a run of
    other users, data or settings.
    """
    if config.validation_users:
        check_metric(config.training.best_metric, _METRICS)
    users = np.arange(dataset.num_users) if users is None else np.unique(users)
    mesh = make_mesh(MeshConfig()) if mesh is None else mesh
    backbone = replace(config.backbone, num_items=dataset.num_items)
    settings = _settings(config)
    run = PprRun.create(run_dir, dataset, users, asdict(backbone), settings, mesh)
    model = run.model

    def accepted() -> None:
        run.write()
        if begun:
            begun(run.path)

    train(
        next_item_objective(model, config.loss, config.views),
        _first_params(model, dataset, users, config),
        backbone_axes(model),
        SequenceIterator(
            dataset, users, config.sequences, backbone.max_history, *process_share(mesh)
        ),
        config.optimizer,
        mesh,
        config.training,
        run.path,
        fingerprint={name: run.manifest[name] for name in ("users", "backbone", "settings")},
        validate=_validator(model, dataset, users, config) if config.validation_users else None,
        fsdp=config.fsdp,
        begun=accepted,
    )
    return run


def _first_params(
    model: Backbone, dataset: Dataset, users: np.ndarray, config: PretrainConfig
) -> Params:
    """Fresh parameters; the items' embeddings are moved to their start."""
    params = backbone_params(model, jax.random.key(config.training.seed))
    if config.start == "counts":
        counted = counted_embeddings(dataset, users, model.config.emb_dim)
        table = params["item_embedding"]["embedding"]
        params["item_embedding"]["embedding"] = table.at[: len(counted)].add(counted)
    return params


def _settings(config: PretrainConfig) -> dict[str, Any]:
    """What the result depends on, apart from data, users and sizes."""
    parts = asdict(config) | {"training": config.training.identity()}
    del parts["backbone"], parts["fsdp"]
    settings: dict[str, Any] = as_json(parts)
    return settings


def next_item_objective(model: Backbone, loss: LossConfig, views: ViewConfig) -> Objective:
    """The objective over batches of SequenceIterator: every position predicts its next item.

    Without an rng it has neither dropout nor the contrastive part.
    """

    def objective(
        params: Params, batch: DeviceBatch, rng: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        items, weights = batch["items"], (batch["targets"] > 0).astype(jnp.float32)
        states = _apply(model, params, items, rng, 0, "__call__")  # [B, S, D]
        sums = _next_item_sums(model, params, states, batch, weights, loss.loss)
        if loss.contrastive_weight and rng is not None:
            keys = [jax.random.fold_in(rng, number) for number in (1, 2)]
            first, second = (
                _apply(
                    model,
                    params,
                    random_view(key, items, views, model.config.mask_item),
                    key,
                    number,
                    "user_state",
                )
                for number, key in enumerate(keys, start=3)
            )  # [B, D]
            present = weights[:, -1] > 0
            each = contrastive(first, second, loss.temperature, present)
            mean = each.sum() / jnp.maximum(present.sum(), 1)
            # A mean over users, added to a mean over positions: the trainer divides by the weight.
            sums["loss_sum"] += loss.contrastive_weight * mean * sums["weight"]
        return sums["loss_sum"], sums

    return objective


def _apply(
    model: Backbone, params: Params, items: jax.Array, rng: jax.Array | None, fold: int, method: str
) -> jax.Array:
    rngs = None if rng is None else {"dropout": jax.random.fold_in(rng, fold)}
    made = model.apply(
        {"params": params}, items, deterministic=rng is None, rngs=rngs, method=method
    )
    return cast(jax.Array, made)


def _next_item_sums(
    model: Backbone,
    params: Params,
    states: jax.Array,
    batch: DeviceBatch,
    weights: jax.Array,
    loss: str,
) -> dict[str, jax.Array]:
    table = cast(jax.Array, model.apply({"params": params}, method="item_table"))  # [I, D]
    targets = jnp.maximum(batch["targets"] - 1, 0)
    sums = {
        "weight": weights.sum(),
        "examples": jnp.any(weights > 0, axis=1).sum().astype(jnp.float32),
    }
    if loss == "cross_entropy":
        loss_sum, hits = cross_entropy(states, table, targets, weights)
        return {**sums, "loss_sum": loss_sum, "hits": hits, "scored": weights.sum()}
    positive = jnp.einsum("bsd,bsd->bs", states, table[targets])
    negatives = jnp.einsum("bsd,bsnd->bsn", states, table[batch["negatives"] - 1])
    if loss == "bpr":
        each = bpr(positive, negatives)
    else:
        each = sampled_cross_entropy(positive, negatives, model.config.num_items)
    return {**sums, "loss_sum": (each * weights).sum()}


def _validator(
    model: Backbone, dataset: Dataset, users: np.ndarray, config: PretrainConfig
) -> Callable[[Params, int], dict[str, float]]:
    """Return a function (params, step) -> metrics of some users' validation pairs."""
    users = np.intersect1d(users, dataset.held_out_users("validation"))
    if not len(users):
        raise UserError(f"{dataset.path}: found no validation item of the users, expected some")
    count = min(config.validation_users, len(users))
    some = np.sort(np.random.default_rng(0).choice(users, count, replace=False))

    def validate(params: Params, step: int) -> dict[str, float]:
        width = model.config.max_history
        scorer = BackboneScorer(model, params)
        parts = catalogue_ranks(scorer, dataset, "validation", some, width)
        ranks = np.concatenate([ranks for _, _, ranks, _ in parts])
        return {
            "validation/HR@10": float(hit_rate(ranks, 10).mean()),
            "validation/NDCG@10": float(ndcg(ranks, 10).mean()),
        }

    return validate
