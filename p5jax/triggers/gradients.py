"""The gradient of the loss at the trigger tokens' embeddings, and the tokens it points to.

Letters: B batch, S source length, T target length, P slots, U users, D model, V vocabulary, K
candidates.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from p5jax.inference.steps import Params
from p5jax.models.t5 import PAD_ID, Transformer
from p5jax.training.step import token_nll

_CHUNK_FLOATS = 1 << 25  # of scores [rows, V] that are held at a time (128 MiB)


class Gradients(NamedTuple):
    """Sums over examples: `task` [l, D] over all of them, `users` [U, u, D] over each user's."""

    task: Any
    users: Any


def example_nll(
    model: Transformer, params: Params, embedded: jax.Array, tokens: jax.Array, targets: jax.Array
) -> jax.Array:
    """The mean negative log-likelihood of each example's target tokens [B] (PAP-REC, Eq. 3).

    embedded [B, S, D] stands for the embedded tokens [B, S]; targets [B, T], padded with 0.
    """
    encoded = model.apply(
        {"params": params}, embedded, tokens, enable_dropout=False, method="encode_embedded"
    )
    fed = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    logits = model.apply(
        {"params": params}, encoded, tokens, fed, targets, enable_dropout=False, method="decode"
    )
    nll, _ = token_nll(logits, targets)
    real = targets != PAD_ID
    return (nll * real).sum(axis=1) / jnp.maximum(real.sum(axis=1), 1)


@partial(jax.jit, static_argnames="model")
def slot_gradients(
    model: Transformer, params: Params, tokens: jax.Array, places: jax.Array, targets: jax.Array
) -> jax.Array:
    """Each example's loss gradient at its slots' embeddings: [B, P, D] float32.

    tokens [B, S], places [B, P] of the slots in them, targets [B, T].
    """
    embedded = model.apply({"params": params}, tokens, method="embed")

    def loss(embedded: jax.Array) -> jax.Array:
        return example_nll(model, params, embedded, tokens, targets).sum()

    gradient = jax.grad(loss)(embedded).astype(jnp.float32)  # [B, S, D]
    return jnp.take_along_axis(gradient, places[:, :, None], axis=1)


@partial(jax.jit, donate_argnums=0)
def add_gradients(so_far: Gradients, slots: jax.Array, users: jax.Array) -> Gradients:
    """Add examples' gradients [B, P, D] to the sums; a row with user -1 is padding."""
    real = jnp.where(users[:, None, None] >= 0, slots, 0.0)
    shared = so_far.task.shape[0]
    known = jnp.where(users >= 0, users, so_far.users.shape[0])  # beyond the table: dropped
    own = jnp.zeros_like(so_far.users).at[known].add(real[:, shared:], mode="drop")
    return Gradients(so_far.task + real[:, :shared].sum(axis=0), so_far.users + own)


@partial(jax.jit, static_argnames="k")
def best_tokens(
    gradients: jax.Array, embeddings: jax.Array, allowed: jax.Array, current: jax.Array, k: int
) -> jax.Array:
    """The k allowed tokens that a first-order step favours: [N, D], [V, D], [V] -> [N, K] int32.

    Those of greatest -e . g (PAP-REC, Eq. 6), best first; never the current one [N].
    """
    count, vocabulary = gradients.shape[0], embeddings.shape[0]
    size = max(1, min(count, _CHUNK_FLOATS // vocabulary))
    parts = -(-count // size)
    ids = jnp.arange(vocabulary)

    def choose(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        gradient, own = part
        scores = -jnp.dot(gradient, embeddings.T, precision=lax.Precision.HIGHEST)
        usable = allowed & (ids != own[:, None])
        return lax.top_k(jnp.where(usable, scores, -jnp.inf), k)[1]

    padding = parts * size - count
    # [N, D] -> [parts, size, D]
    rows = jnp.pad(gradients, ((0, padding), (0, 0))).reshape(parts, size, -1)
    own = jnp.pad(current, (0, padding)).reshape(parts, size)
    return lax.map(choose, (rows, own)).reshape(-1, k)[:count]
