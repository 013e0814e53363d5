"""T5's attention and its relative position bias, with t5x's parameter names and logical axes.

Letters: B batch, S source length, T target length, L cache length, D model, H heads, K head width,
Q queries, G rows per source.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning
from jax import lax

from p5jax.models.layers import Array, Dense, Dropout, constrained

# Large enough to give a weight of exactly 0 in float32, small enough that a row in which every
# key is masked stays finite (a uniform average that nobody reads).
MASKED = -1e10


def relative_buckets(
    offsets: Array, bidirectional: bool, num_buckets: int, max_distance: int
) -> Array:
    """T5's bucket of each offset, key position minus query position: [N] int -> [N] int32.

    Half the buckets hold one distance each, the rest grow logarithmically to `max_distance`
    (Raffel et al. 2020, section 2.1); bidirectional splits them between the two signs.
    """
    first = jnp.zeros_like(offsets)
    distance = jnp.maximum(-offsets, 0)
    if bidirectional:
        num_buckets //= 2
        first = jnp.where(offsets > 0, num_buckets, 0)
        distance = jnp.abs(offsets)
    exact = num_buckets // 2
    ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact)
    ratio = ratio / np.float32(np.log(max_distance / exact))
    logarithmic = exact + (ratio * (num_buckets - exact)).astype(jnp.int32)
    logarithmic = jnp.minimum(logarithmic, num_buckets - 1)
    return first + jnp.where(distance < exact, distance, logarithmic)


def repeat_rows(x: Array, rows: int) -> Array:
    """[...] -> [rows, ...]: an outer product with ones, so that its gradient is a product too.

    XLA's reduction over a leading axis is far slower than a product on CPU, and a product stays one
    all-reduce when the rows are sharded.
    """
    return jnp.einsum("b,...->b...", jnp.ones((rows,), x.dtype), x)


class RelativePositionBias(nn.Module):
    """The additive attention bias of a stack, shared by its layers."""

    num_heads: int
    num_buckets: int
    max_distance: int
    bidirectional: bool

    @nn.compact
    def __call__(self, queries: int, keys: int, first_query: Array | int = 0) -> Array:
        """Bias of query positions from `first_query` and key positions from 0 -> [H, Q, S] float32.

        It depends only on the offset, so there are Q + S values to look up rather than Q * S.
        """
        table = partitioning.param_with_axes(
            "rel_embedding",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
            (self.num_heads, self.num_buckets),
            jnp.float32,
            axes=("heads", "relpos_buckets"),
        )
        count = queries + keys
        offsets = np.arange(count)
        offsets[keys:] -= count  # 0 … S-1, then -Q … -1
        buckets = relative_buckets(
            jnp.asarray(offsets) - first_query,
            self.bidirectional,
            self.num_buckets,
            self.max_distance,
        )
        one_hot = jax.nn.one_hot(buckets, self.num_buckets, dtype=jnp.float32)
        values = jnp.einsum("hn,cn->hc", table, one_hot)  # [H, Q+S]
        # Each row one step further round the circle of values: rows of Q+S read back as Q+S-1.
        rows = repeat_rows(values, queries).swapaxes(0, 1).reshape(self.num_heads, -1)
        rows = rows[:, : queries * (count - 1)].reshape(self.num_heads, queries, count - 1)
        return rows[:, :, :keys]


class Attention(nn.Module):
    """Multi-head attention without biases; T5's initial values absorb the factor 1/sqrt(K).

    Keys may have a batch of B / G rows for B rows of queries: then each group of G successive query
    rows attends to one row of keys (beams or candidates that share a source).
    """

    model_dim: int
    num_heads: int
    head_dim: int
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    float32_logits: bool = True

    def setup(self) -> None:
        width = self.num_heads * self.head_dim
        axes = ("embed", "joined_kv")
        in_std = self.model_dim**-0.5
        self.query = Dense(width, axes, (self.model_dim * self.head_dim) ** -0.5, self.dtype)
        self.key = Dense(width, axes, in_std, self.dtype)
        self.value = Dense(width, axes, in_std, self.dtype)
        self.out = Dense(self.model_dim, ("joined_kv", "embed"), width**-0.5, self.dtype)
        self.dropout = Dropout(self.dropout_rate, axis=-1)

    def __call__(
        self,
        x: Array,
        source: Array,
        position_bias: Array | None,
        mask_bias: Array,
        deterministic: bool,
        cache_index: Array | None = None,
        cross: bool = False,
        decode: bool = False,
    ) -> Array:
        """Queries [B, T, D] over `source` [B/G, S, D] -> [B, T, D].

        position_bias: [H, T, S] float32. mask_bias: [1|B/G, 1, 1|T, S], 0 or MASKED.
        decode: keys and values are kept in the `cache` collection, [B, L, H, K]; `cache_index` says
        how many are filled (None: this call shapes the cache). cross: keys and values come from the
        `cross` collection when it holds any (see Transformer.project_encoded). Otherwise keys and
        values in the `past` collection, [B, A, H, K], come before this call's, and the `grown`
        collection, when mutable, receives this call's own.
        """
        query = self._heads(self.query(x))
        if cross and self.has_variable("cross", "key"):
            key: Array = self.get_variable("cross", "key")
            value: Array = self.get_variable("cross", "value")
        else:
            key, value = self._keys_and_values(source)
        if decode:
            key, value = self._cached(key, value, cache_index)
        elif not cross:
            key, value = self._after_past(key, value)
        rows, length = query.shape[:2]
        if key.shape[0] != rows:
            # [B, T, H, K] -> [B/G, G*T, H, K]: rows that share a source become positions of it.
            query = query.reshape(key.shape[0], -1, *query.shape[2:])
        y = self._attend(query, key, value, position_bias, mask_bias, deterministic)
        # [B/G, G*T, H, K] -> [B, T, H*K]
        return self.out(y.reshape(rows, length, self.num_heads * self.head_dim))

    def project(self, source: Array) -> None:
        """Write the keys and values of `source` to the `cross` collection."""
        key, value = self._keys_and_values(source)
        self.put_variable("cross", "key", key)
        self.put_variable("cross", "value", value)

    def cache_length(self) -> int:
        """The number of positions the cache has room for."""
        return self.get_variable("cache", "cached_key").shape[1]

    def _heads(self, y: Array) -> Array:
        # [B, S, H*K] -> [B, S, H, K]
        y = y.reshape(*y.shape[:-1], self.num_heads, self.head_dim)
        return constrained(y, "batch", "length", "heads", "kv")

    def _keys_and_values(self, source: Array) -> tuple[Array, Array]:
        return self._heads(self.key(source)), self._heads(self.value(source))

    def _cached(self, key: Array, value: Array, index: Array | None) -> tuple[Array, Array]:
        if index is None:
            self.put_variable("cache", "cached_key", jnp.zeros_like(key))
            self.put_variable("cache", "cached_value", jnp.zeros_like(value))
            return key, value
        start = (0, index, 0, 0)
        key = lax.dynamic_update_slice(self.get_variable("cache", "cached_key"), key, start)
        value = lax.dynamic_update_slice(self.get_variable("cache", "cached_value"), value, start)
        self.put_variable("cache", "cached_key", key)
        self.put_variable("cache", "cached_value", value)
        return key, value

    def _after_past(self, key: Array, value: Array) -> tuple[Array, Array]:
        if self.is_mutable_collection("grown") and not self.is_initializing():
            self.put_variable("grown", "key", key)
            self.put_variable("grown", "value", value)
        if self.has_variable("past", "key"):
            key = jnp.concatenate([self.get_variable("past", "key"), key], axis=1)
            value = jnp.concatenate([self.get_variable("past", "value"), value], axis=1)
        return key, value

    def _attend(
        self,
        query: Array,
        key: Array,
        value: Array,
        position_bias: Array | None,
        mask_bias: Array,
        deterministic: bool,
    ) -> Array:
        """[B, Q, H, K], [B, S, H, K] x 2 -> [B, Q, H, K].

        Softmax divides after the product with the values, and dropout (one mask for all queries)
        scales the values before it: the same numbers with fewer passes over [B, H, Q, S].
        """
        accumulate = jnp.float32 if self.float32_logits else self.dtype
        query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))  # [B, H, S, K]
        logits = jnp.einsum("bhqk,bhsk->bhqs", query, key, preferred_element_type=accumulate)
        if position_bias is not None:
            logits = logits + repeat_rows(position_bias.astype(accumulate), logits.shape[0])
        logits = logits + mask_bias.astype(accumulate)
        weights = jnp.exp(logits - lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
        total = jnp.sum(weights, axis=-1, keepdims=True)
        value = self.dropout(value, deterministic)
        y = jnp.einsum(
            "bhqs,bhsk->bhqk", weights.astype(self.dtype), value, preferred_element_type=accumulate
        )
        return jnp.swapaxes((y / total).astype(self.dtype), 1, 2)
