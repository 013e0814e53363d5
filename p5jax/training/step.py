"""The compiled training and evaluation steps and their loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from p5jax.core.settings import BELOW_ONE, check
from p5jax.parallel.partitioning import (
    batch_sharding,
    logical_mesh,
    param_shardings,
    replicated,
    state_shardings,
)
from p5jax.training.children import BITS, Children
from p5jax.training.freezing import EVERYTHING, merged, split

DeviceBatch = Mapping[str, jax.Array]
# (params, batch, rng or None) -> (total, sums): what is minimised is total / sums["weight"],
# both over all rows; `sums` are float32 scalars that add up over batches, at least loss_sum,
# weight and examples. Where they mean something, also hits of scored, and tokens.
Objective = Callable[[Any, DeviceBatch, jax.Array | None], tuple[jax.Array, dict[str, jax.Array]]]
REQUIRED = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
OPTIONAL = (
    "encoder_segment_ids",
    "decoder_segment_ids",
    "encoder_positions",
    "decoder_positions",
)
PAD = 0


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised beside the likelihood of the targets.

    label_smoothing: the share of each target token's weight that is spread evenly over all tokens
    that its softmax is over.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check(self, label_smoothing=BELOW_ONE)


class TokenLoss(NamedTuple):
    """What is told of each target token [...], all float32.

    nll: its negative log-likelihood in nats; uniform: the cross-entropy with equal shares for all
    tokens that it is one of; hit: 1 where its logit is the highest of them (a tie counts), else 0,
    without gradient.
    """

    nll: jax.Array
    uniform: jax.Array
    hit: jax.Array


@jax.custom_vjp
def token_loss(logits: jax.Array, targets: jax.Array, among: jax.Array | None = None) -> TokenLoss:
    """The losses of targets [...] int under a softmax of logits [..., V], which is float32.

    among [..., V/32] uint32: flags of the tokens that the softmax is over (see training.children),
    the target one of them; None: all V.
    """
    return _token_loss_forward(logits, targets, among)[0]


def _is_target(logits: jax.Array, targets: jax.Array) -> jax.Array:
    # A comparison instead of a gather: it fuses into the reductions over V, its gradient is no
    # scatter, and each device can do it for its own part of a split vocabulary.
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    return ids == targets[..., None]


def _counted(logits: jax.Array, among: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Which tokens the softmax is over [..., V], and how many [..., 1]."""
    if among is None:
        return jnp.array(True), jnp.array([logits.shape[-1]])
    bits = among[..., None] >> jnp.arange(BITS, dtype=jnp.uint32) & 1
    counted = bits.reshape(logits.shape) > 0  # [..., V/32, 32] -> [..., V]
    return counted, jnp.sum(jax.lax.population_count(among), axis=-1, keepdims=True)


def _token_loss_forward(
    logits: jax.Array, targets: jax.Array, among: jax.Array | None
) -> tuple[TokenLoss, Any]:
    counted, count = _counted(logits, among)
    x = logits.astype(jnp.float32)
    within = jnp.where(counted, x, -jnp.inf)
    top = jnp.max(within, axis=-1)
    log_z = top + jnp.log(jnp.sum(jnp.exp(within - top[..., None]), axis=-1))
    target_logit = jnp.sum(jnp.where(_is_target(x, targets), x, 0.0), axis=-1)
    mean = jnp.sum(jnp.where(counted, x, 0.0), axis=-1) / count[..., 0]
    hit = (target_logit >= top).astype(jnp.float32)
    loss = TokenLoss(log_z - target_logit, log_z - mean, hit)
    return loss, (logits, targets, among, log_z)


def _token_loss_backward(residuals: Any, cotangents: TokenLoss) -> tuple[jax.Array, None, None]:
    logits, targets, among, log_z = residuals
    counted, count = _counted(logits, among)
    d_nll, d_uniform = (each[..., None] for each in cotangents[:2])
    # d nll / d logit = softmax - one_hot, from log_z: the softmax is never kept in memory. In the
    # place of one_hot d uniform has equal shares.
    softmax = jnp.exp(logits.astype(jnp.float32) - log_z[..., None])
    gradient = (softmax - _is_target(logits, targets)) * d_nll + (softmax - 1 / count) * d_uniform
    return jnp.where(counted, gradient, 0.0).astype(logits.dtype), None, None


token_loss.defvjp(_token_loss_forward, _token_loss_backward)


def batch_sums(
    model: nn.Module,
    params: Any,
    batch: DeviceBatch,
    rng: jax.Array | None,
    *,
    children: Children | None = None,
    label_smoothing: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """sum(w * loss) over the batch's target tokens, and float32 scalars that add up over batches.

    loss_sum / weight is P5's when w = 1 / (target tokens of the example): the mean over
    tokens per example, then over examples. `rng` is for dropout (None: no dropout). `hits` and
    `scored` count target tokens of weight > 0; `tokens` are source and target tokens that are no
    padding; `examples` are packed segments, or rows with any weight.
    children: of tokens of item ids the softmax is over those that can continue the id.
    label_smoothing: this much of a target's share is spread evenly over all that the softmax is
    over (Szegedy et al., 2016, section 7); `loss_sum` of the scalars is without it.
    """
    packing: dict[str, Any] = {name: batch[name] for name in OPTIONAL if name in batch}
    logits = model.apply(
        {"params": params},
        *(batch[name] for name in REQUIRED),
        **packing,
        enable_dropout=rng is not None,
        rngs=None if rng is None else {"dropout": rng},
    )  # [B, T, V]
    targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
    among = None if children is None else children.among(batch["decoder_input_tokens"], targets)
    nll, uniform, hit = token_loss(logits, targets, among)
    loss_sum = jnp.sum(nll * weights)
    minimised = loss_sum
    if label_smoothing:
        minimised += label_smoothing * (jnp.sum(uniform * weights) - loss_sum)
    scored = weights > 0
    if "decoder_segment_ids" in batch:
        examples = jnp.sum(jnp.max(batch["decoder_segment_ids"], axis=1))
    else:
        examples = jnp.sum(jnp.any(scored, axis=1))
    tokens = jnp.sum(batch["encoder_input_tokens"] != PAD) + jnp.sum(targets != PAD)
    sums = {
        "loss_sum": loss_sum,
        "weight": jnp.sum(weights),
        "hits": jnp.sum(hit * scored),
        "scored": jnp.sum(scored),
        "examples": examples,
        "tokens": tokens,
    }
    return minimised, jax.tree.map(lambda x: x.astype(jnp.float32), sums)


def loss_fn(
    model: nn.Module, params: Any, batch: DeviceBatch, rng: jax.Array | None = None
) -> jax.Array:
    """sum(w * nll) / sum(w), a float32 scalar; dropout only when `rng` is given."""
    loss_sum, sums = batch_sums(model, params, batch, rng)
    return loss_sum / sums["weight"]


class Steps:
    """The compiled functions of one run, over one mesh.

    The state is t5x's tree {target: params, state: {step, param_states}}, all float32 but the
    int32 counters. `shardings` is the tree of its NamedShardings. Only the parameters that a
    pattern of `trainable` matches (see training.freezing) have gradients, optimizer state and
    weight decay.
    """

    def __init__(
        self,
        objective: Objective,
        tx: optax.GradientTransformation,
        mesh: Mesh,
        axes: Any,
        params: Any,
        *,
        seed: int,
        accumulate: int = 1,
        fsdp: bool = False,
        trainable: Sequence[str] = EVERYTHING,
    ) -> None:
        self.objective, self.tx, self.mesh = objective, tx, mesh
        self.accumulate, self.trainable = accumulate, tuple(trainable)
        self._seed = np.uint32(seed)
        shapes = jax.eval_shape(lambda p: p, params)
        target = param_shardings(mesh, axes, shapes, fsdp)
        abstract = jax.eval_shape(self._new_state, shapes)
        self.shardings = state_shardings(mesh, abstract, shapes, target)
        self.abstract_state = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            abstract,
            self.shardings,
        )
        batch, whole = batch_sharding(mesh), replicated(mesh)
        state, trained = self.shardings, split(target, self.trainable)[0]
        self._init = jax.jit(self._new_state, out_shardings=state)
        self._fused = jax.jit(
            self._step,
            donate_argnums=0,
            in_shardings=(state, batch, None),
            out_shardings=(state, whole),
        )
        self._first = jax.jit(
            self._gradients,
            in_shardings=(target, batch, None),
            out_shardings=(trained, whole),
        )
        self._add = jax.jit(
            self._add_gradients,
            donate_argnums=0,
            in_shardings=((trained, whole), target, batch, None),
            out_shardings=(trained, whole),
        )
        self._apply = jax.jit(
            self._apply_gradients,
            donate_argnums=0,
            in_shardings=(state, trained, whole),
            out_shardings=(state, whole),
        )
        self._evaluate = jax.jit(
            lambda params, batch: objective(params, batch, None)[1],
            in_shardings=(target, batch),
            out_shardings=whole,
        )

    def init(self, params: Any) -> Any:
        """A fresh state from parameters, which stay the caller's (they are copied)."""
        return self._init(params)

    def update(
        self, state: Any, batches: Sequence[DeviceBatch], step: int
    ) -> tuple[Any, dict[str, Any]]:
        """One optimizer step over `accumulate` batches; `state` is donated.

        Returns the new state and the batches' sums with `gradient_norm` (before clipping). The
        dropout key of batch i of step s is fold_in(key(seed), s * accumulate + i).
        """
        with logical_mesh(self.mesh):
            if len(batches) == 1:
                state, sums = self._fused(state, batches[0], self._fold(step, 0))
                return state, sums
            grads = self._first(state["target"], batches[0], self._fold(step, 0))
            for i, batch in enumerate(batches[1:], start=1):
                grads = self._add(grads, state["target"], batch, self._fold(step, i))
            state, sums = self._apply(state, *grads)
            return state, sums

    def evaluate(self, params: Any, batch: DeviceBatch) -> dict[str, Any]:
        """The objective's sums without dropout."""
        with logical_mesh(self.mesh):
            return dict(self._evaluate(params, batch))

    def _fold(self, step: int, i: int) -> np.ndarray:
        return np.array([self._seed, step * self.accumulate + i], np.uint32)

    def _new_state(self, params: Any) -> Any:
        params = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), params)
        return {
            "target": params,
            "state": {"step": jnp.int32(0), "param_states": self.tx.init(self._split(params)[0])},
        }

    def _split(self, params: Any) -> tuple[Any, Any]:
        return split(params, self.trainable)

    def _gradients(self, params: Any, batch: DeviceBatch, fold: jax.Array) -> tuple[Any, Any]:
        rng = jax.random.fold_in(jax.random.key(fold[0]), fold[1])
        trained, frozen = self._split(params)

        def total(p: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
            return self.objective(merged(p, frozen), batch, rng)

        grads, sums = jax.grad(total, has_aux=True)(trained)
        return grads, sums

    def _add_gradients(self, so_far: Any, params: Any, batch: DeviceBatch, fold: jax.Array) -> Any:
        return jax.tree.map(jnp.add, so_far, self._gradients(params, batch, fold))

    def _apply_gradients(self, state: Any, grads: Any, sums: Any) -> tuple[Any, Any]:
        # Gradients are of sum(w * nll): dividing by all the batches' weight makes accumulation
        # exact even where the batches weigh differently. A batch without weight changes nothing.
        scale = 1.0 / jnp.maximum(sums["weight"], 1e-9)
        grads = jax.tree.map(lambda g: g * scale, grads)
        (trained, frozen), inner = self._split(state["target"]), state["state"]
        updates, param_states = self.tx.update(grads, inner["param_states"], trained)
        new = {
            "target": merged(optax.apply_updates(trained, updates), frozen),
            "state": {"step": inner["step"] + 1, "param_states": param_states},
        }
        return new, {**sums, "gradient_norm": optax.global_norm(grads)}

    def _step(self, state: Any, batch: DeviceBatch, fold: jax.Array) -> tuple[Any, Any]:
        return self._apply_gradients(state, *self._gradients(state["target"], batch, fold))
