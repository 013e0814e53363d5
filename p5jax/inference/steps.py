"""One decoding step at a time against sources that are read once.

Letters: B sources, S source length, G decoded rows per source, R = B*G rows, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from p5jax.models.initial import Params
from p5jax.models.t5 import Transformer

Cache = Any  # the keys and values of the decoded positions, rows leading


class EncodedSource(NamedTuple):
    """What decoding needs of the sources: tokens [B, S], encoded [B, S, D], keys and values."""

    tokens: jax.Array
    encoded: jax.Array
    cross: Any


def read_source(model: Transformer, params: Params, tokens: jax.Array) -> EncodedSource:
    """Encode sources [B, S] and project the decoder's keys and values, once for all rows."""
    encoded: Any = model.apply({"params": params}, tokens, enable_dropout=False, method="encode")
    _, variables = model.apply(
        {"params": params}, encoded, method="project_encoded", mutable=["cross"]
    )
    return EncodedSource(tokens, encoded, variables["cross"])


def empty_cache(
    model: Transformer, params: Params, source: EncodedSource, rows: int, length: int
) -> Cache:
    """A cache of `length` unfilled positions for `rows` decoded rows."""

    def first_call(params: Params, source: EncodedSource, tokens: jax.Array) -> Cache:
        _, variables = model.apply(
            {"params": params, "cross": source.cross},
            source.encoded,
            source.tokens,
            tokens,
            tokens,
            enable_dropout=False,
            decode=True,
            method="decode",
            mutable=["cache"],
        )
        return variables["cache"]

    tokens = jax.eval_shape(lambda: jnp.zeros((rows, length), jnp.int32))
    shapes = jax.eval_shape(first_call, params, source, tokens)  # shapes only: nothing is computed
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def step(
    model: Transformer, params: Params, source: EncodedSource, cache: Cache, tokens: jax.Array
) -> tuple[jax.Array, Cache]:
    """Feed one token per row, [R] -> logits [R, V] of the next ones, and the longer cache."""
    logits, variables = model.apply(
        {"params": params, "cross": source.cross, "cache": cache},
        source.encoded,
        source.tokens,
        tokens[:, None],
        tokens[:, None],
        enable_dropout=False,
        decode=True,
        method="decode",
        mutable=["cache"],
    )
    return logits[:, 0], variables["cache"]


def select_rows(cache: Cache, parents: jax.Array) -> Cache:
    """The cache of the rows that continue: parents [B, K] in 0..G-1 -> a cache of B*K rows."""
    sources = parents.shape[0]

    def select(leaf: jax.Array) -> jax.Array:
        if leaf.ndim == 0:  # the number of filled positions, common to all rows
            return leaf
        # [B*G, L, ...] -> [B, G, L, ...] -> [B, K, L, ...] -> [B*K, L, ...]
        grouped = leaf.reshape(sources, -1, *leaf.shape[1:])
        chosen = jnp.take_along_axis(
            grouped, parents.reshape(*parents.shape, *[1] * (leaf.ndim - 1)), axis=1
        )
        return chosen.reshape(-1, *leaf.shape[1:])

    return jax.tree.map(select, cache)
