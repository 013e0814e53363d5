"""SASRec (Kang and McAuley 2018): a causal transformer over item sequences, with a soft prompt.

Where an item stands is told by learned biases of its distance (Raffel et al. 2020) instead of
positions: a state then depends on its history alone, so that a loss at every position has the
targets of a sample for every prefix, at a fraction of its cost. Scores are cosines, so that an
item that many users have does not outgrow the others. CL4SRec is the same encoder, pre-trained with
a contrastive loss too (see pretraining). Letters: B batch, S history length, D model, H heads,
P prompt rows, L layers, I items. Items in sequences are numbered 1 … I; 0 is padding, on the left,
and I + 1 a masked item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning

from p5jax.core.errors import UserError
from p5jax.core.settings import BELOW_ONE, COUNT, SIZE, above, check
from p5jax.models.attention import MASKED
from p5jax.models.initial import Params, fresh_params, logical_axes
from p5jax.models.layers import Array, Dense, Dropout, normal

STDDEV = 0.01  # of every initial weight
EPSILON = 1e-6  # of the layer norms
ROW_MULTIPLE = 128  # table rows, so that the mesh's model axis divides them


@dataclass(frozen=True)
class BackboneConfig:
    """Sizes of a backbone; the defaults are PPR's reference shape with a shorter history.

    num_items: I of the dataset. max_history: most recent interactions that are read. temperature:
    what the cosine of a state and an item is divided by to be the item's score.
    """

    num_items: int
    emb_dim: int = 64
    num_layers: int = 1
    num_heads: int = 1
    mlp_dim: int = 64
    max_history: int = 50
    dropout_rate: float = 0.2
    temperature: float = 0.07

    def __post_init__(self) -> None:
        sizes = ("emb_dim", "num_layers", "num_heads", "mlp_dim", "max_history")
        check(
            self,
            num_items=COUNT,
            **dict.fromkeys(sizes, SIZE),
            dropout_rate=BELOW_ONE,
            temperature=above(0),
        )
        if self.emb_dim % self.num_heads:
            raise UserError(
                f"BackboneConfig.emb_dim: found {self.emb_dim}, expected a multiple of"
                f" num_heads = {self.num_heads}"
            )

    @property
    def mask_item(self) -> int:
        """The number of a masked item in sequences."""
        return self.num_items + 1


class Backbone(nn.Module):
    """Histories to states; the score of item i is the user's state times `item_table()[i]`."""

    config: BackboneConfig

    def setup(self) -> None:
        c = self.config
        rows = -(-(c.num_items + 1) // ROW_MULTIPLE) * ROW_MULTIPLE
        self.item_embedding = _Table(rows, c.emb_dim, ("vocab", "embed"))
        self.embedding_layer_norm = _LayerNorm()
        self.dropout = Dropout(c.dropout_rate)
        self.layers = [_Layer(c) for _ in range(c.num_layers)]

    def item_table(self) -> Array:
        """The items' embeddings, [I, D], of length one: those read are those scored."""
        return unit(self.item_embedding()[: self.config.num_items])

    def embed(self, items_BxS: Array) -> Array:
        """Normalised item embeddings, [B, S] int32 -> [B, S, D]; padding is zero.

        ValueError when S is more than max_history.
        """
        length = items_BxS.shape[1]
        if length > self.config.max_history:
            raise ValueError(f"found {length} columns, expected {self.config.max_history} at most")
        items = jnp.take(self.item_embedding(), items_BxS - 1, axis=0, mode="clip")
        return self.embedding_layer_norm(items) * (items_BxS > 0)[..., None]

    def encode_embedded(
        self,
        embedded_BxSxD: Array,
        present_BxS: Array,
        prompt: Array | None = None,
        deterministic: bool = True,
    ) -> Array:
        """States of the prompt's rows and the behaviour's, [B, P + S, D]; padding's are zero.

        A state's length is one over the temperature. present: bool, False for padding. prompt:
        [B, P, L, D], or None for P = 0. Its rows come before the behaviour and are visible to every
        later row; the input of layer l in these rows is prompt[:, :, l], not the output of the
        layer below (PPR, section 3).
        """
        x: Array = self.dropout(embedded_BxSxD, deterministic=deterministic)
        present, rows = present_BxS, 0
        if prompt is not None:
            rows = prompt.shape[1]
            x = jnp.concatenate([prompt[:, :, 0], x], axis=1)
            always = jnp.ones((x.shape[0], rows), bool)
            present = jnp.concatenate([always, present_BxS], axis=1)  # [B, P + S]
        size = x.shape[1]
        visible = jnp.tril(jnp.ones((size, size), bool)) & present[:, None, :]  # [B, Q, K]
        for number, layer in enumerate(self.layers):
            if prompt is not None and number:
                x = jnp.concatenate([prompt[:, :, number], x[:, rows:]], axis=1)
            x = layer(x, visible, rows, deterministic) * present[..., None]
        return unit(x) / self.config.temperature

    def __call__(
        self, items_BxS: Array, prompt: Array | None = None, deterministic: bool = True
    ) -> Array:
        """States of right-aligned histories: [B, S] int32 -> [B, P + S, D]."""
        return self.encode_embedded(self.embed(items_BxS), items_BxS > 0, prompt, deterministic)

    def user_state(
        self, items_BxS: Array, prompt: Array | None = None, deterministic: bool = True
    ) -> Array:
        """The state that predicts the next item, [B, D].

        It is the last column's state; for an empty history the last prompt row's, or zero without a
        prompt.
        """
        states = self(items_BxS, prompt, deterministic)
        last = states[:, -1]
        if prompt is None or not prompt.shape[1]:
            return last
        return jnp.where(items_BxS[:, -1:] > 0, last, states[:, prompt.shape[1] - 1])


def item_scores(users_BxD: Array, table_IxD: Array, candidates_BxC: Array | None) -> Array:
    """Return the scores of candidates [B, C], or of all items [B, I], for user vectors."""
    if candidates_BxC is None:
        return users_BxD @ table_IxD.T
    return jnp.einsum("bd,bcd->bc", users_BxD, table_IxD[candidates_BxC])


def unit(x: Array) -> Array:
    """Scale rows to length one; a row of zeros stays zero, and its gradient is finite."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))


class _Layer(nn.Module):
    """Self-attention, then a feed-forward block; each is added to its input, then normalised."""

    config: BackboneConfig

    @nn.compact
    def __call__(self, x: Array, visible: Array, rows: int, deterministic: bool) -> Array:
        c = self.config
        dropout = Dropout(c.dropout_rate)
        attended = _Attention(c, name="attention")(x, visible, rows)
        x = _LayerNorm(name="post_attention_layer_norm")(x + dropout(attended, deterministic))
        hidden = nn.relu(_dense(c.mlp_dim, ("embed", "mlp"), "wi")(x))
        hidden = _dense(c.emb_dim, ("mlp", "embed"), "wo")(dropout(hidden, deterministic))
        return _LayerNorm(name="post_mlp_layer_norm")(x + dropout(hidden, deterministic))


class _Attention(nn.Module):
    """Attention with a learned bias for each head and distance; prompt rows have no distance."""

    config: BackboneConfig

    @nn.compact
    def __call__(self, x: Array, visible: Array, rows: int) -> Array:
        c = self.config
        batch, length, _ = x.shape
        query, key, value = (
            _dense(c.emb_dim, ("embed", "joined_kv"), name)(x).reshape(
                batch, length, c.num_heads, c.emb_dim // c.num_heads
            )
            for name in ("query", "key", "value")
        )
        query = query * (c.emb_dim // c.num_heads) ** -0.5
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) + self._bias(length - rows, rows)
        weights = jax.nn.softmax(jnp.where(visible[:, None], logits, MASKED), axis=-1)
        x = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(batch, length, c.emb_dim)
        return _dense(c.emb_dim, ("joined_kv", "embed"), "out")(x)

    def _bias(self, length: int, rows: int) -> Array:
        """Biases [H, P + S, P + S]: by how many items the key comes before the query."""
        c = self.config
        table: Array = partitioning.param_with_axes(
            "rel_embedding",
            nn.initializers.zeros,
            (c.max_history, c.num_heads),
            jnp.float32,
            axes=("relpos_buckets", "relpos_heads"),
        )
        place = jnp.arange(length)
        distance = jnp.maximum(place[:, None] - place, 0)
        return jnp.pad(jnp.moveaxis(table[distance], -1, 0), ((0, 0), (rows, 0), (rows, 0)))


def _dense(features: int, axes: tuple[str, str], name: str) -> Dense:
    return Dense(features, axes, STDDEV, bias=True, name=name)


class _Table(nn.Module):
    rows: int
    features: int
    axes: tuple[str, str]

    @nn.compact
    def __call__(self) -> Array:
        shape = (self.rows, self.features)
        table: Array = partitioning.param_with_axes(
            "embedding", normal(STDDEV), shape, jnp.float32, axes=self.axes
        )
        return table


class _LayerNorm(nn.Module):
    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale: Array = partitioning.param_with_axes(
            "scale", nn.initializers.ones, (x.shape[-1],), jnp.float32, axes=("embed",)
        )
        bias: Array = partitioning.param_with_axes(
            "bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32, axes=("embed",)
        )
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + EPSILON) * scale + bias


def backbone_params(model: Backbone, rng: Array) -> Params:
    """Return fresh parameters, nested dicts of float32."""
    return fresh_params(model, rng, np.zeros((1, 1), np.int32), compiled=False)


def backbone_axes(model: Backbone) -> dict[str, Any]:
    """Return the parameters' tree with a tuple of logical axis names at each leaf."""
    return logical_axes(model, np.zeros((1, 1), np.int32))
