"""Rows of tokens decoded after tokens whose keys and values are kept, each computed once.

Letters: B users, R rows of a user, L tokens of a row, A tokens before them, P kept tokens,
V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from p5jax.inference.steps import EncodedSource
from p5jax.models.initial import Params
from p5jax.models.t5 import PAD_ID, Transformer


class Decoder(NamedTuple):
    """What scoring tokens needs, the same all through a search."""

    model: Transformer
    params: Params
    source: EncodedSource
    likelihood: str
    floats: int


def begin(decoder: Decoder, given: jax.Array) -> tuple[Any, jax.Array]:
    """Decode what answers begin with, once: keys and values of [B, A], and positions [B, 1, A]."""
    if not given.shape[1]:
        return None, jnp.zeros((given.shape[0], 1, 0), jnp.int32)
    real = given >= 0
    fed = jnp.maximum(given, 0)
    _, variables = decoder.model.apply(
        {"params": decoder.params, "cross": decoder.source.cross},
        decoder.source.encoded,
        decoder.source.tokens,
        fed,
        fed,
        # Positions are relative, so padding before the tokens shifts nothing, once it is unseen.
        decoder_segment_ids=real.astype(jnp.int32),
        enable_dropout=False,
        method="decode",
        mutable=["grown"],
    )
    positions = jnp.where(real, jnp.arange(given.shape[1]), -1)
    return variables["grown"], positions[:, None]


def log_likelihood(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Log-probabilities of tokens [..., L], 0 for padding, from logits [..., L, V]: [...]."""
    logp = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    logp = jnp.minimum(logp - jax.nn.logsumexp(logits, axis=-1), 0.0)
    return jnp.where(tokens != PAD_ID, logp, 0.0).sum(axis=-1)


def decode_rows(
    decoder: Decoder, kept: Any, past: jax.Array, tokens: jax.Array
) -> tuple[jax.Array, Any]:
    """Decode tokens [B, R, L] after kept tokens `past` [B, R, A], -1 where there is none.

    Returns logits [B, R, L, V] and the new tokens' keys and values, leaves [B, R, L, H, K].
    """
    users, count, length = tokens.shape
    collections = {"params": decoder.params, "cross": decoder.source.cross}
    mask = None
    if past.shape[2]:
        positions = past.reshape(users, -1)  # [B, R, A] -> [B, R*A]
        mask = past.reshape(-1, past.shape[2]) >= 0  # [B*R, A]

        def look_up(leaf: jax.Array) -> jax.Array:
            found: jax.Array = jax.vmap(lambda tokens, at: tokens.at[at].get(mode="clip"))(
                leaf, positions
            )
            # [B, R*A, H, K] -> [B*R, A, H, K]
            return found.reshape(users * count, -1, *leaf.shape[2:])

        collections["past"] = jax.tree.map(look_up, kept)
    fed = tokens.reshape(users * count, length)  # rows of one user are successive
    logits, variables = decoder.model.apply(
        collections,
        decoder.source.encoded,
        decoder.source.tokens,
        fed,
        fed,
        enable_dropout=False,
        past_mask=mask,
        method="decode",
        mutable=["grown"],
    )

    def by_user(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(users, count, *leaf.shape[1:])

    return by_user(logits), jax.tree.map(by_user, variables["grown"])


def in_parts(function: Any, arrays: tuple[jax.Array, ...], row_size: int, floats: int) -> Any:
    """Apply a function of arrays [B, R, ...] to parts of the rows, whose logits fit in memory."""
    count = arrays[0].shape[1]
    size = max(1, min(count, floats // row_size))
    parts = -(-count // size)
    if parts == 1:
        return function(arrays)
    size = -(-count // parts)  # even parts, so that little is padded

    def split(leaf: jax.Array) -> jax.Array:
        padding = [(0, 0)] * leaf.ndim
        padding[1] = (0, parts * size - count)
        # [B, parts*r, ...] -> [parts, B, r, ...]
        return jnp.pad(leaf, padding).reshape(-1, parts, size, *leaf.shape[2:]).swapaxes(0, 1)

    def join(leaf: jax.Array) -> jax.Array:
        # [parts, B, r, ...] -> [B, parts*r, ...]
        leaf = leaf.swapaxes(0, 1)
        return leaf.reshape(leaf.shape[0], parts * size, *leaf.shape[3:])[:, :count]

    return jax.tree.map(join, lax.map(function, jax.tree.map(split, arrays)))


def keep(kept: Any, grown: Any, past: jax.Array, length: int) -> tuple[Any, jax.Array]:
    """Put new keys and values, leaves [B, R, L, ...], after the kept ones [B, P, ...].

    Returns them and the positions [B, R, A+L] of each row's tokens.
    """
    users, count, _ = past.shape
    first = 0 if kept is None else jax.tree.leaves(kept)[0].shape[1]
    positions = first + jnp.arange(count * length).reshape(1, count, length)
    positions = jnp.concatenate([past, jnp.broadcast_to(positions, (users, count, length))], axis=2)

    def flat(leaf: jax.Array) -> jax.Array:
        # [B, R, L, H, K] -> [B, R*L, H, K]
        return leaf.reshape(users, count * length, *leaf.shape[3:])

    new = jax.tree.map(flat, grown)
    if kept is None:
        return new, positions
    return jax.tree.map(lambda *both: jnp.concatenate(both, axis=1), kept, new), positions
