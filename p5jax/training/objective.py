"""What training minimises: the loss of a batch's target tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from p5jax.core.settings import BELOW_ONE, COUNT, check
from p5jax.training.children import BITS, Children

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

    - `label_smoothing`: the share of each target token's weight that is spread evenly over all
      tokens that its softmax is over;
    - `logits_length`: the most target positions whose logits are there at once, of all rows of the
      batch; 0: all. Fewer take less memory, and the output projection is done twice: for
      catalogues of a token an item that are too large otherwise.
    """

    label_smoothing: float = 0.0
    logits_length: int = 0

    def __post_init__(self) -> None:
        check(self, label_smoothing=BELOW_ONE, logits_length=COUNT)


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
    config: ObjectiveConfig = ObjectiveConfig(),
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """sum(w * loss) over the batch's target tokens, and float32 scalars that add up over batches.

    loss_sum / weight is P5's when w = 1 / (target tokens of the example): the mean over
    tokens per example, then over examples. `rng` is for dropout (None: no dropout). `hits` and
    `scored` count target tokens of weight > 0; `tokens` are source and target tokens that are no
    padding; `examples` are packed segments, or rows with any weight.
    children: of tokens of item ids the softmax is over those that can continue the id.
    config.label_smoothing: this much of a target's share is spread evenly over all that the softmax
    is over (Szegedy et al., 2016, section 7); `loss_sum` of the scalars is without it.
    """
    targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
    among = None if children is None else children.among(batch["decoder_input_tokens"], targets)
    nll, uniform, hit = _token_losses(model, params, batch, rng, among, config.logits_length)
    loss_sum = jnp.sum(nll * weights)
    minimised = loss_sum
    if config.label_smoothing:
        minimised += config.label_smoothing * (jnp.sum(uniform * weights) - loss_sum)
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


def _token_losses(
    model: nn.Module,
    params: Any,
    batch: DeviceBatch,
    rng: jax.Array | None,
    among: jax.Array | None,
    length: int,
) -> TokenLoss:
    """The losses of a batch's targets [B, T]; length: positions whose logits are there at once."""
    targets = batch["decoder_target_tokens"]
    packing: dict[str, Any] = {name: batch[name] for name in OPTIONAL if name in batch}
    apply = partial(
        model.apply,
        {"params": params},
        *(batch[name] for name in REQUIRED),
        **packing,
        enable_dropout=rng is not None,
        rngs=None if rng is None else {"dropout": rng},
    )
    if not 0 < length < targets.shape[1]:
        return token_loss(apply(), targets, among)  # logits [B, T, V]

    def parts(x: jax.Array) -> jax.Array:
        """[B, T, ...] -> [T/length, B, length, ...]; the end repeats what is last."""
        missing = [(0, 0), (0, -x.shape[1] % length)] + [(0, 0)] * (x.ndim - 2)
        split = jnp.pad(x, missing, "edge").reshape(len(x), -1, length, *x.shape[2:])
        return jnp.moveaxis(split, 1, 0)

    @jax.checkpoint  # the logits are made again in the backward pass instead of kept
    def part_loss(part: tuple[jax.Array, jax.Array, jax.Array | None]) -> TokenLoss:
        states, *rest = part
        return token_loss(model.apply({"params": params}, states, method="logits"), *rest)

    found = jax.lax.map(part_loss, jax.tree.map(parts, (apply(project=False), targets, among)))

    def whole(x: jax.Array) -> jax.Array:
        """[T/length, B, length] -> [B, T]."""
        return jnp.moveaxis(x, 0, 1).reshape(len(targets), -1)[:, : targets.shape[1]]

    return TokenLoss(*map(whole, found))


def loss_fn(
    model: nn.Module, params: Any, batch: DeviceBatch, rng: jax.Array | None = None
) -> jax.Array:
    """sum(w * nll) / sum(w), a float32 scalar; dropout only when `rng` is given."""
    loss_sum, sums = batch_sums(model, params, batch, rng)
    return loss_sum / sums["weight"]
