"""T5's encoder and decoder: layers in a row over a relative position bias they share.

Letters: B batch, S source length, T target length, L cache length, D model, V vocabulary, G rows
per source.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from p5jax.core.errors import UserError
from p5jax.models.attention import MASKED, Attention, RelativePositionBias
from p5jax.models.layers import MLP, Array, Dense, Dropout, Embed, LayerNorm, constrained
from p5jax.models.t5_config import T5Config


def mask_bias(mask: Array) -> Array:
    """A boolean mask (True: may attend) as an additive float32 bias."""
    return jnp.where(mask, 0.0, MASKED).astype(jnp.float32)


def same_segment(query_segments: Array, key_segments: Array) -> Array:
    """[B, Q], [B, S] -> [B, 1, Q, S] bool: query and key are in the same segment."""
    return (query_segments[:, :, None] == key_segments[:, None, :])[:, None]


class _Layer(nn.Module):
    """What encoder and decoder layers share: feed-forward and residual dropout."""

    config: T5Config
    dropout_rate: float

    def _attention(self) -> Attention:
        cfg = self.config
        return Attention(
            model_dim=cfg.emb_dim,
            num_heads=cfg.num_heads,
            head_dim=cfg.head_dim,
            dropout_rate=self.dropout_rate,
            dtype=jnp.dtype(cfg.dtype),
            float32_logits=cfg.float32_attention_logits,
        )

    def _mlp(self) -> MLP:
        cfg = self.config
        return MLP(cfg.mlp_dim, cfg.mlp_activations, self.dropout_rate, jnp.dtype(cfg.dtype))

    def _residual(
        self, x: Array, update: Array, deterministic: bool, rates: Array | None = None
    ) -> Array:
        x = x + self.dropout(update, deterministic, rates)
        return constrained(x, "batch", "length", "embed")


class EncoderLayer(_Layer):
    """Self-attention and feed-forward, pre-norm, with residuals."""

    def setup(self) -> None:
        dtype = jnp.dtype(self.config.dtype)
        self.pre_attention_layer_norm = LayerNorm(dtype)
        self.attention = self._attention()
        self.pre_mlp_layer_norm = LayerNorm(dtype)
        self.mlp = self._mlp()
        self.dropout = Dropout(self.dropout_rate)

    def __call__(
        self, x: Array, position_bias: Array, mask_bias: Array, deterministic: bool
    ) -> Array:
        """[B, S, D] with biases [H, S, S] and [1|B, 1, 1|S, S] -> [B, S, D]."""
        y = self.pre_attention_layer_norm(x)
        y = self.attention(y, y, position_bias, mask_bias, deterministic)
        x = self._residual(x, y, deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        return self._residual(x, y, deterministic)


class DecoderLayer(_Layer):
    """Self-attention, attention to the source and feed-forward, pre-norm, with residuals."""

    def setup(self) -> None:
        dtype = jnp.dtype(self.config.dtype)
        self.pre_self_attention_layer_norm = LayerNorm(dtype)
        self.self_attention = self._attention()
        self.pre_cross_attention_layer_norm = LayerNorm(dtype)
        self.encoder_decoder_attention = self._attention()
        self.pre_mlp_layer_norm = LayerNorm(dtype)
        self.mlp = self._mlp()
        self.dropout = Dropout(self.dropout_rate)

    def __call__(
        self,
        x: Array,
        encoded: Array,
        position_bias: Array,
        self_mask_bias: Array,
        cross_mask_bias: Array,
        deterministic: bool,
        decode: bool,
        cache_index: Array | None,
        rates: Array | None,
    ) -> Array:
        """[B*G, T, D] and the source [B, S, D] -> [B*G, T, D]."""
        y = self.pre_self_attention_layer_norm(x)
        y = self.self_attention(
            y,
            y,
            position_bias,
            self_mask_bias,
            deterministic,
            cache_index=cache_index,
            decode=decode,
        )
        x = self._residual(x, y, deterministic, rates)
        y = self.pre_cross_attention_layer_norm(x)
        y = self.encoder_decoder_attention(
            y, encoded, None, cross_mask_bias, deterministic, cross=True
        )
        x = self._residual(x, y, deterministic, rates)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic, rates)
        return self._residual(x, y, deterministic, rates)


def _relative_bias(config: T5Config, bidirectional: bool) -> RelativePositionBias:
    return RelativePositionBias(
        config.num_heads, config.relpos_buckets, config.relpos_max_distance, bidirectional
    )


def _output_dropout(config: T5Config, otherwise: float) -> Dropout:
    rate = config.output_dropout_rate
    return Dropout(otherwise if rate is None else rate)


class Encoder(nn.Module):
    """The encoder stack: embedded inputs [B, S, D] and a boolean mask -> [B, S, D]."""

    config: T5Config

    def setup(self) -> None:
        cfg = self.config
        self.relpos_bias = _relative_bias(cfg, bidirectional=True)
        self.layers = [EncoderLayer(cfg, cfg.dropout_rate) for _ in range(cfg.num_encoder_layers)]
        self.encoder_norm = LayerNorm(jnp.dtype(cfg.dtype))
        self.dropout = Dropout(cfg.dropout_rate)
        self.output_dropout = _output_dropout(cfg, cfg.dropout_rate)

    def __call__(self, embedded: Array, mask: Array, deterministic: bool) -> Array:
        """[B, S, D] and mask [B, 1, 1|S, S] (True: may attend) -> [B, S, D]."""
        length = embedded.shape[1]
        # Both biases once for all layers.
        position_bias, source_mask_bias = self.relpos_bias(length, length), mask_bias(mask)
        x = self.dropout(embedded.astype(self.config.dtype), deterministic)
        for layer in self.layers:
            x = layer(x, position_bias, source_mask_bias, deterministic)
        return self.output_dropout(self.encoder_norm(x), deterministic)


class Decoder(nn.Module):
    """The decoder stack with its output projection."""

    config: T5Config
    embedder: Embed

    def setup(self) -> None:
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        self.relpos_bias = _relative_bias(cfg, bidirectional=False)
        rate = cfg.dropout_rate if cfg.decoder_dropout_rate is None else cfg.decoder_dropout_rate
        self.layers = [DecoderLayer(cfg, rate) for _ in range(cfg.num_decoder_layers)]
        self.decoder_norm = LayerNorm(dtype)
        self.dropout = Dropout(rate)
        self.output_dropout = _output_dropout(cfg, rate)
        if not cfg.logits_via_embedding:
            axes = ("embed", "vocab")
            self.logits_dense = Dense(
                cfg.vocab_size, axes, cfg.emb_dim**-0.5, dtype, output_dtype=jnp.float32
            )

    def __call__(
        self,
        encoded: Array,
        tokens: Array,
        segment_ids: Array | None,
        cross_mask: Array,
        deterministic: bool,
        decode: bool,
        max_decode_length: int | None,
        past_mask: Array | None,
    ) -> Array:
        """[B, S, D] and [B*G, T] tokens -> the last layer's states [B*G, T, D], normalised."""
        length = tokens.shape[1]
        past = 0 if past_mask is None else past_mask.shape[1]
        room, filled = (
            (past + length, None) if not decode else self._cache(length, max_decode_length)
        )
        first = past if filled is None else filled
        # Keys at or before the query: [1, 1, T, T or L]. This also hides the unfilled cache and,
        # because padding follows the text, every padded target.
        self_mask = (jnp.arange(room)[None, :] <= first + jnp.arange(length)[:, None])[None, None]
        if segment_ids is not None:
            self_mask = self_mask & same_segment(segment_ids, segment_ids)
        if past_mask is not None:
            seen = jnp.pad(past_mask, ((0, 0), (0, length)), constant_values=True)
            self_mask = self_mask & seen[:, None, None, :]
        position_bias = self.relpos_bias(length, room, first)
        self_mask_bias, cross_mask_bias = mask_bias(self_mask), mask_bias(cross_mask)
        rates = None if deterministic else self._rates(tokens)
        y = self.dropout(self.embedder(tokens), deterministic, rates)
        for layer in self.layers:
            y = layer(
                y,
                encoded,
                position_bias,
                self_mask_bias,
                cross_mask_bias,
                deterministic,
                decode,
                filled,
                rates,
            )
        states: Array = self.output_dropout(self.decoder_norm(y), deterministic)
        return states

    def _rates(self, tokens: Array) -> Array | None:
        """The dropout rate of each position, [B*G, T, 1], by what it reads; None: all alike."""
        cfg = self.config
        if cfg.item_dropout_rate is None:
            return None
        if not cfg.first_id_token:
            raise UserError("T5Config.first_id_token: found 0, expected the vocabulary's")
        is_item = tokens >= cfg.first_id_token
        return jnp.where(is_item, cfg.item_dropout_rate, self.dropout.rate)[:, :, None]

    def logits(self, states: Array) -> Array:
        """The output projection: states [B*G, T, D] -> [B*G, T, V] float32."""
        if self.config.logits_via_embedding:
            # Scaling the D inputs rather than the V logits saves a pass over [B, T, V].
            logits = self.embedder.attend(states * self.config.emb_dim**-0.5)
        else:
            logits = self.logits_dense(states)
        return constrained(logits, "batch", "length", "vocab")

    def _cache(self, length: int, max_decode_length: int | None) -> tuple[int, Array | None]:
        """The positions the cache has room for and how many are filled (None: no cache yet)."""
        if not self.has_variable("cache", "cache_index"):
            self.put_variable("cache", "cache_index", jnp.zeros((), jnp.int32))
            return length, None
        filled: Array = self.get_variable("cache", "cache_index")
        self.put_variable("cache", "cache_index", filled + length)
        room = self.layers[0].self_attention.cache_length()
        if max_decode_length is not None and max_decode_length != room:
            raise ValueError(f"max_decode_length is {max_decode_length}, the cache holds {room}")
        return room, filled

    def project(self, encoded: Array) -> None:
        """Write every layer's keys and values of the source to the `cross` collection."""
        for layer in self.layers:
            layer.encoder_decoder_attention.project(encoded)
