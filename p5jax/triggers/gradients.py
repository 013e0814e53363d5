"""The gradient of the loss at the trigger tokens' embeddings, and the tokens it points to.

Letters: B batch, S source length, T target length, P slots, U users, D model, V vocabulary, K
candidates.
"""

from __future__ import annotations

from functools import partial
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from p5jax.models.initial import Params
from p5jax.models.t5 import Transformer
from p5jax.parallel.placing import place_rows, to_host
from p5jax.training.children import Children
from p5jax.training.objective import token_loss
from p5jax.triggers.open_prompts import OpenPrompts

_BATCH = 16
_SCORES = 1 << 25  # floats of scores [rows, V] that are held at a time (128 MiB)

Values = TypeVar("Values", jax.Array, np.ndarray)


class Gradients(NamedTuple, Generic[Values]):
    """Sums over examples: `task` [l, D] over all of them, `users` [U, u, D] over each user's."""

    task: Values
    users: Values


def example_nll(
    model: Transformer,
    params: Params,
    embedded: jax.Array,
    tokens: jax.Array,
    targets: jax.Array,
    scored: jax.Array,
    children: Children | None = None,
) -> jax.Array:
    """The mean negative log-likelihood of each example's target tokens [B] (PAP-REC, Eq. 3).

    embedded [B, S, D]: the embeddings of tokens [B, S]; targets [B, T], padded with 0; scored
    [B, T]: which of them count; children: as in the model's training.
    """
    encoded = model.apply(
        {"params": params}, embedded, tokens, enable_dropout=False, method="encode_embedded"
    )
    fed = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    logits = model.apply(
        {"params": params}, encoded, tokens, fed, targets, enable_dropout=False, method="decode"
    )
    among = None if children is None else children.among(fed, targets)
    nll = token_loss(logits, targets, among).nll
    return (nll * scored).sum(axis=1) / jnp.maximum(scored.sum(axis=1), 1)


@partial(jax.jit, static_argnames="model")
def slot_gradients(
    model: Transformer,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    targets: jax.Array,
    scored: jax.Array,
    children: Children | None = None,
) -> jax.Array:
    """Each example's loss gradient at its slots' embeddings: [B, P, D] float32.

    tokens [B, S], positions [B, P] of the slots in them, targets and scored [B, T].
    """
    embedded = model.apply({"params": params}, tokens, method="embed")

    def loss(embedded: jax.Array) -> jax.Array:
        return example_nll(model, params, embedded, tokens, targets, scored, children).sum()

    gradient = jax.grad(loss)(embedded).astype(jnp.float32)  # [B, S, D]
    return jnp.take_along_axis(gradient, positions[:, :, None], axis=1)


@partial(jax.jit, donate_argnums=0)
def add_gradients(
    so_far: Gradients[jax.Array], slots: jax.Array, users: jax.Array
) -> Gradients[jax.Array]:
    """Add examples' gradients [B, P, D] to the sums; a row with user -1 is padding."""
    real = jnp.where(users[:, None, None] >= 0, slots, 0.0)
    shared = so_far.task.shape[0]
    known = jnp.where(users >= 0, users, so_far.users.shape[0])  # beyond the table: dropped
    own = jnp.zeros_like(so_far.users).at[known].add(real[:, shared:], mode="drop")
    return Gradients(so_far.task + real[:, :shared].sum(axis=0), so_far.users + own)


def total_gradients(
    model: Transformer,
    params: Params,
    prompts: OpenPrompts,
    slots: np.ndarray,
    users: int,
    own: int,
    children: Children | None = None,
) -> Gradients[np.ndarray]:
    """The loss gradients of N prompts with trigger tokens `slots` [N, P], summed in one pass.

    users: how many the dataset has; own: how many of the slots are each user's own; children: as in
    the model's training.
    """
    width = params["token_embedder"]["embedding"].shape[1]
    total = Gradients(
        np.zeros((slots.shape[1] - own, width), np.float32),
        np.zeros((users, own, width), np.float32),
    )
    for batch in prompts.batches(np.arange(len(prompts)), _BATCH):
        rows = np.resize(batch[batch >= 0], len(batch))
        part = slot_gradients(
            model,
            params,
            place_rows(params, prompts.filled(rows, slots[rows])),
            place_rows(params, prompts.positions[rows]),
            place_rows(params, prompts.targets[rows]),
            place_rows(params, prompts.scored[rows]),
            children,
        )
        owners = np.full(len(part), -1, np.int32)  # rows that fill the batch have none
        owners[: len(batch)] = np.where(batch >= 0, prompts.users[rows], -1)
        total = add_gradients(total, part, owners)
    return Gradients(to_host(total.task), to_host(total.users))


@partial(jax.jit, static_argnames=("k", "scores_held"))
def best_tokens(
    gradients: jax.Array,
    embeddings: jax.Array,
    allowed: jax.Array,
    current: jax.Array,
    k: int,
    scores_held: int = _SCORES,
) -> jax.Array:
    """The k allowed tokens that a first-order step favours: [N, D], [V, D], [V] -> [N, K] int32.

    Those of greatest -e . g (PAP-REC, Eq. 6), best first; never the current one [N]. At most
    `scores_held` scores, or one row of V, are in memory at a time.
    """
    count, vocabulary = gradients.shape[0], embeddings.shape[0]
    size = max(1, min(count, scores_held // vocabulary))
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
    best: jax.Array = lax.map(choose, (rows, own))
    return best.reshape(-1, k)[:count]  # [parts, size, K] -> [N, K]
