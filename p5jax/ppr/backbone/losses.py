"""Losses of next-item models, one value per position or user, and the contrastive loss.

Letters: B batch, D model, I items, N negatives. A score is a state's dot product with an item's
embedding.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax

from p5jax.models.layers import Array
from p5jax.training.step import token_nll


def bpr(positive: Array, negatives: Array) -> Array:
    """-log sigmoid(positive - negative), averaged over the negatives (Rendle et al. 2009).

    positive: scores [...]; negatives: [..., N]; returns [...].
    """
    return -jax.nn.log_sigmoid(positive[..., None] - negatives).mean(axis=-1)


def cross_entropy(states: Array, table_IxD: Array, targets: Array) -> tuple[Array, Array]:
    """Negative log-likelihood of the target among all items, and whether it has the highest score.

    states: [..., D]; targets: int32 [...], from 0; returns ([...], [...] of 0 and 1).
    """
    # As one matrix: with two leading axes the gradient's products are a third slower on a CPU.
    flat = states.reshape(-1, states.shape[-1])
    nll, hit = token_nll(flat @ table_IxD.T, targets.reshape(-1))
    return nll.reshape(targets.shape), hit.reshape(targets.shape)


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
    views = _unit(jnp.concatenate([first_BxD, second_BxD]))  # [2B, D]
    hidden = ~jnp.tile(present_B, 2)[None, :] | jnp.eye(2 * users, dtype=bool)
    own = (jnp.arange(2 * users) + users) % (2 * users)
    # A view's own positive is kept, so that an absent user's row is finite too.
    hidden &= own[:, None] != jnp.arange(2 * users)
    logits = jnp.where(hidden, -jnp.inf, views @ views.T / temperature)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, own)
    return jnp.where(present_B, (loss[:users] + loss[users:]) / 2, 0.0)


def _unit(x: Array) -> Array:
    """Rows of length one; a row of zeros stays zero, and its gradient is finite."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))
