"""Tuning of a prompted model on cold users: modes, batches and the objective.

Letters: B batch, S history length, N negatives, D model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.settings import BELOW_ONE, COUNT, SHARE, SIZE, above, check
from p5jax.models.initial import Params
from p5jax.pipeline.batching import Batch
from p5jax.pipeline.epochs import EpochIterator, LazyBatches
from p5jax.ppr.backbone.losses import bpr, contrastive, cross_entropy, sampled_cross_entropy
from p5jax.ppr.backbone.pretraining import LOSSES
from p5jax.ppr.cold.protocol import Cases, ColdStart, is_of_kind
from p5jax.ppr.generator import masked_elements
from p5jax.ppr.model import PromptedModel
from p5jax.training.objective import DeviceBatch, Objective


class Mode(NamedTuple):
    """What a mode trains, whether it has a prompt, and its usual learning rate."""

    trainable: tuple[str, ...]
    prompted: bool
    learning_rate: float


MODES: Mapping[str, Mode] = {
    "light": Mode(("profile/*", "generator/*", "profile_mlp/*"), True, 1e-3),
    "full": Mode(("*",), True, 3e-4),
    "finetune": Mode(("*",), False, 3e-4),
}


@dataclass(frozen=True)
class TuneConfig:
    """How a prompted model is tuned.

    mode: "light" trains profile embeddings, generator and MLP_a; "full" everything; "finetune" the
    backbone and MLP_a, without a prompt. steps of Adam, with a constant `learning_rate` (0: the
    mode's own); of every `validate_every` steps the best is kept. kind: of the tuning
    users' cases ("joint": all). loss: "bpr", "sampled" or "cross_entropy" on u_p, with `negatives`
    items outside the user's events for the first two.
    contrast_prompt, contrast_behaviour: the parts of the contrastive loss on u_s, each with
    `contrastive_weight`; a view's elements, or items, are masked at `mask_rate`.
    validation_share: of the tuning users, held out to find the best step. profile_noise: share of
    all users' known attributes that are replaced by others, sampled with noise_seed.
    """

    mode: str = "light"
    steps: int = 200
    validate_every: int = 10
    learning_rate: float = 0.0
    weight_decay: float = 0.0
    seed: int = 0
    kind: str = "joint"
    loss: str = "bpr"
    negatives: int = 1
    contrast_prompt: bool = True
    contrast_behaviour: bool = True
    contrastive_weight: float = 0.1
    temperature: float = 1.0
    mask_rate: float = 0.2
    batch_size: int = 256
    validation_share: float = 0.2
    profile_noise: float = 0.0
    noise_seed: int = 0

    def __post_init__(self) -> None:
        check(
            self,
            mode=MODES,
            loss=LOSSES,
            **dict.fromkeys(("steps", "negatives", "batch_size"), SIZE),
            **dict.fromkeys(("validate_every", "learning_rate", "weight_decay"), COUNT),
            contrastive_weight=COUNT,
            temperature=above(0),
            mask_rate=BELOW_ONE,
            validation_share=BELOW_ONE,
            profile_noise=SHARE,
        )
        is_of_kind(self.kind, np.zeros(0, int))


def validation_users(users: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Split tuning users into those that are trained on and those that choose the best step.

    With share 0 nobody chooses and the last step is kept.
    """
    shuffled = np.random.default_rng(0).permutation(users)
    count = round(share * len(users))
    if count == len(users) or (share and not count):
        raise UserError(
            f"validation_share: found {share} of {len(users)} tuning users, expected"
            " at least one to train on and one to choose by"
        )
    return np.sort(shuffled[count:]), np.sort(shuffled[:count])


class CaseIterator(EpochIterator):
    """An endless iterator of a process's rows of batches of cases, each once in an epoch.

    A batch is {"profiles": [B, M] or [B, X], "items": int32 [B, S] (item + 1), "targets": int32
    [B], "negatives": int32 [B, N], "weights": float32 [B]}; rows that fill an epoch's last batch
    have weight 0. Negatives are sampled evenly from the items that the user has no event with.
    """

    def __init__(
        self,
        split: ColdStart,
        cases: Cases,
        features: np.ndarray,
        config: TuneConfig,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        super().__init__(config.batch_size, process_index, process_count)
        if not len(cases):
            raise UserError(
                f"TuneConfig.kind: found no {cases.kind} case of the tuning users, expected one"
                " or more (k-shot asks for the event after a user's first k)"
            )
        self._cases, self._features = cases, features
        self._config, self._seed = config, config.seed
        self._num_items = split.num_items
        self._own = {user: split.sequence(user) for user in np.unique(cases.users).tolist()}

    def epoch(self, number: int) -> Sequence[Batch]:
        """Return the batches of an epoch, in order."""
        size, total = self._config.batch_size, len(self._cases)
        order = np.random.default_rng([self._seed, number]).permutation(total)

        def make(position: int) -> Batch:
            rng = np.random.default_rng([self._seed, number, position])
            return self._batch(order[position * size : (position + 1) * size], rng)

        return LazyBatches(-(-total // size), make)

    def _batch(self, rows: np.ndarray, rng: np.random.Generator) -> Batch:
        size, count = self._config.batch_size, self._config.negatives
        filled, cases = np.resize(rows, size), self._cases
        users = cases.users[filled]
        negatives = np.stack([self._sample(rng, user, count) for user in users.tolist()])
        return {
            "profiles": self._features[users],
            "items": cases.items_NxS[filled],
            "targets": cases.targets[filled],
            "negatives": negatives.astype(np.int32),
            "weights": (np.arange(size) < len(rows)).astype(np.float32),
        }

    def _sample(self, rng: np.random.Generator, user: int, count: int) -> np.ndarray:
        drawn = rng.integers(self._num_items, size=count)
        known = np.isin(drawn, self._own[user])
        while known.any():
            drawn[known] = rng.integers(self._num_items, size=int(known.sum()))
            known = np.isin(drawn, self._own[user])
        return drawn


def tuning_objective(model: PromptedModel, config: TuneConfig) -> Objective:
    """Return the objective over batches of CaseIterator: u_p predicts the target (PPR, section 3).

    Without an rng it has neither dropout nor the contrastive part.
    """

    def objective(
        params: Params, batch: DeviceBatch, rng: jax.Array | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        variables, weights = {"params": params}, batch["weights"]
        dropout, views = (None, None) if rng is None else jax.random.split(rng)
        users, states = _user_vectors(model, variables, batch, dropout)
        table = cast(jax.Array, model.apply(variables, method="item_table"))
        loss_sum = _next_item_sum(users, table, batch, config)
        if views is not None and model.prompted:
            loss_sum += config.contrastive_weight * _contrastive_sum(
                model, config, variables, batch, states, views
            )
        sums = {"loss_sum": loss_sum, "weight": weights.sum(), "examples": weights.sum()}
        return loss_sum, sums

    return objective


def _user_vectors(
    model: PromptedModel,
    variables: Mapping[str, Params],
    batch: DeviceBatch,
    dropout: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """The rows' user vectors u_p and states u_s, both [B, D]."""
    rngs = None if dropout is None else {"dropout": dropout}
    made = model.apply(variables, batch["profiles"], batch["items"], dropout is None, rngs=rngs)
    return cast(tuple[jax.Array, jax.Array], made)


def _next_item_sum(
    users: jax.Array, table: jax.Array, batch: DeviceBatch, config: TuneConfig
) -> jax.Array:
    """The weighted sum over rows of the loss of their targets, from user vectors [B, D]."""
    targets, weights = batch["targets"], batch["weights"]
    if config.loss == "cross_entropy":
        return cross_entropy(users[:, None], table, targets[:, None], weights[:, None])[0]
    positive = jnp.einsum("bd,bd->b", users, table[targets])
    negatives = jnp.einsum("bd,bnd->bn", users, table[batch["negatives"]])
    if config.loss == "bpr":
        each = bpr(positive, negatives)
    else:
        each = sampled_cross_entropy(positive, negatives, len(table))
    return (each * weights).sum()


def _contrastive_sum(
    model: PromptedModel,
    config: TuneConfig,
    variables: Mapping[str, Params],
    batch: DeviceBatch,
    states: jax.Array,
    rng: jax.Array,
) -> jax.Array:
    """The sum over rows of both parts of the contrastive loss.

    states: of the rows, [B, D]; compared with those of masked profiles and of masked behaviour.
    """
    keys = jax.random.split(rng, 4)
    present = batch["weights"] > 0
    x = cast(jax.Array, model.apply(variables, batch["profiles"], method="profile_vector"))
    total = jnp.zeros(())
    views = []
    if config.contrast_prompt:
        views.append((masked_elements(x, config.mask_rate, keys[0]), batch["items"], keys[1]))
    if config.contrast_behaviour:
        drawn = jax.random.bernoulli(keys[2], config.mask_rate, batch["items"].shape)
        masked = jnp.where(
            drawn & (batch["items"] > 0), model.backbone_config.mask_item, batch["items"]
        )
        views.append((x, masked, keys[3]))
    for profile, items, key in views:
        other = model.apply(
            variables, profile, items, False, rngs={"dropout": key}, method="user_state"
        )
        each = contrastive(states, cast(jax.Array, other), config.temperature, present)
        total += each.sum()
    return total
