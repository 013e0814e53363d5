"""Losses of next-item models and the contrastive loss.

Letters: B batch, D model, I items, N negatives. A score is a state's dot product with an item's
embedding.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from p5jax.models.layers import Array
from p5jax.ppr.backbone.model import unit


def bpr(positive: Array, negatives: Array) -> Array:
    """-log sigmoid(positive - negative), averaged over the negatives (Rendle et al. 2009).

    positive: scores [...]; negatives: [..., N]; returns [...].
    """
    return -jax.nn.log_sigmoid(positive[..., None] - negatives).mean(axis=-1)


def cross_entropy(
    states_BxSxD: Array, table_IxD: Array, targets_BxS: Array, weights_BxS: Array
) -> tuple[Array, Array]:
    """Negative log-likelihood of the targets among all items, and how many score highest.

    Both are weighted sums over the positions; targets: int32, from 0; the second has no gradient.
    """
    loss, hits = _cross_entropy(states_BxSxD, table_IxD, targets_BxS, weights_BxS)
    return loss, jax.lax.stop_gradient(hits)


@jax.custom_vjp
def _cross_entropy(states: Array, table: Array, targets: Array, weights: Array) -> Any:
    def column(_: None, part: Any) -> tuple[None, Array]:
        return None, jnp.stack(_column(table, *part)[0])

    _, sums = jax.lax.scan(column, None, _by_column(states, targets, weights))
    return tuple(sums.sum(axis=0))


def _with_gradients(states: Array, table: Array, targets: Array, weights: Array) -> Any:
    # One column of the batch at a time, and its gradients with it: the scores of B positions stay
    # in the cache and their exponentials are taken once, which halves the time on a CPU.
    def column(so_far: Array, part: Any) -> tuple[Array, Any]:
        sums, probabilities = _column(table, *part)
        state, target, weight = part
        spread = probabilities * weight[:, None]
        own = jnp.take(table, target, axis=0) * weight[:, None]
        return so_far + spread.T @ state, (jnp.stack(sums), spread @ table - own)

    parts = _by_column(states, targets, weights)
    table_gradient, (sums, gradient) = jax.lax.scan(column, jnp.zeros_like(table), parts)
    table_gradient = table_gradient.at[targets].add(-weights[..., None] * states)
    return tuple(sums.sum(axis=0)), (jnp.moveaxis(gradient, 0, 1), table_gradient)


def _scaled_gradients(gradients: tuple[Array, Array], cotangents: Any) -> Any:
    return gradients[0] * cotangents[0], gradients[1] * cotangents[0], None, None


_cross_entropy.defvjp(_with_gradients, _scaled_gradients)


def _by_column(*arrays: Array) -> tuple[Array, ...]:
    """[B, S, ...] -> [S, B, ...]: on a mesh, each device keeps its own users."""
    return tuple(jnp.moveaxis(array, 1, 0) for array in arrays)


def _column(
    table: Array, states: Array, targets: Array, weights: Array
) -> tuple[tuple[Array, Array], Array]:
    """The sums of one column, and the probabilities of all items, [B, I]."""
    scores = states @ table.T
    top = scores.max(axis=-1)
    powers = jnp.exp(scores - top[:, None])
    total = powers.sum(axis=-1)
    own = jnp.take_along_axis(scores, targets[:, None], 1)[:, 0]
    nll, hit = jnp.log(total) + top - own, (own >= top).astype(jnp.float32)
    return ((nll * weights).sum(), (hit * weights).sum()), powers / total[:, None]


def sampled_cross_entropy(positive: Array, negatives: Array, num_items: int) -> Array:
    """Cross-entropy over the target and a uniform sample of the others, corrected for sampling.

    log(exp(positive) + (I - 1) / N sum exp(negative)) - positive: each of N negatives counts for
    (I - 1) / N items, so that the sum's expectation is that of the full loss when negatives are
    uniform (the log q of Bengio and Senécal 2008, q = 1 / (I - 1)). With all other items as
    negatives it is the full loss. positive: [...]; negatives: [..., N]; -> [...].
    """
    weight = math.log((num_items - 1) / negatives.shape[-1])
    logits = jnp.concatenate([positive[..., None], negatives + weight], axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - positive


def contrastive(
    first_BxD: Array, second_BxD: Array, temperature: float, present_B: Array | None = None
) -> Array:
    """Cross-entropy of finding a view's partner, the user's other view, in the batch: [B].

    The similarity is the cosine over the temperature. A view's positive is the user's other view,
    its negatives are both views of all other users; the loss is the mean of the two directions
    (NT-Xent: Chen et al. 2020, equation 1; CL4SRec: Xie et al. 2022). Users that are not
    `present` (bool [B]) are no one's negatives and have a loss of 0.
    """
    users = first_BxD.shape[0]
    if present_B is None:
        present_B = jnp.ones(users, bool)
    views = unit(jnp.concatenate([first_BxD, second_BxD]))  # [2B, D]
    hidden = ~jnp.tile(present_B, 2)[None, :] | jnp.eye(2 * users, dtype=bool)
    own = (jnp.arange(2 * users) + users) % (2 * users)
    # A view's own positive is kept, so that an absent user's row is finite too.
    hidden &= own[:, None] != jnp.arange(2 * users)
    logits = jnp.where(hidden, -jnp.inf, views @ views.T / temperature)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, own)
    return jnp.where(present_B, (loss[:users] + loss[users:]) / 2, 0.0)
