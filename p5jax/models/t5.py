"""T5 v1.0 and v1.1 as one Flax module in t5x's shape, with P5's whole-word embeddings.

Additions to t5x's minimal T5, all optional at call time: a whole-word table added to the encoder's
token embeddings, an entry for embedded inputs (soft prompts), rows of candidates that share one
source, and projected keys and values of the source kept between decoding steps.

Letters: B batch, S source length, T target length, D model, V vocabulary, G rows per source.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from p5jax.core.errors import UserError
from p5jax.models.initial import Params, fresh_params, logical_axes
from p5jax.models.layers import Array, Embed
from p5jax.models.stacks import Decoder, Encoder, same_segment
from p5jax.models.t5_config import T5Config

__all__ = ["T5Config", "Transformer", "init_params", "param_axes", "whole_word_ids"]

PAD_ID, EOS_ID = 0, 1
WHOLE_WORDS = 512  # rows of P5's whole-word table
# A table of positions, like the relative ones: a name that every t5x rule set replicates.
WHOLE_WORD_AXES = ("relpos_buckets", "embed")


def whole_word_ids(tokens: Array, word_starts: Array, segment_ids: Array | None = None) -> Array:
    """Number the words of each source from 1: [B, S] int32 tokens -> [B, S] int32 in 0 … 511.

    word_starts: [V] bool. The count steps at each word-start token and restarts with each packed
    segment; end-of-sequence and padding get 0 (Geng et al. 2022, section 4.1).
    """
    starts = jnp.take(word_starts, tokens, mode="clip").astype(jnp.int32)
    count = jnp.cumsum(starts, axis=1)
    if segment_ids is not None:
        begins = segment_ids != jnp.pad(segment_ids, ((0, 0), (1, 0)))[:, :-1]
        # What had been counted before the segment's first token.
        count = count - lax.cummax(jnp.where(begins, count - starts, 0), axis=1)
    count = jnp.minimum(count, WHOLE_WORDS - 1)
    return jnp.where((tokens == PAD_ID) | (tokens == EOS_ID), 0, count)


class Transformer(nn.Module):
    """An encoder-decoder T5 with t5x's call signature.

    Token arrays are int32, padded with 0 at the end; packed rows carry segment ids from 1
    (padding 0). T5 has only relative positions, so `*_positions` are accepted and not read, and
    neither are `decoder_target_tokens`: causality already hides the padding that follows a target.
    """

    config: T5Config

    def setup(self) -> None:
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        axes = ("vocab", "embed")
        self.token_embedder = Embed(cfg.vocab_size, cfg.emb_dim, axes, dtype)
        if cfg.whole_words:
            self.whole_word_embedder = Embed(WHOLE_WORDS, cfg.emb_dim, WHOLE_WORD_AXES, dtype)
        self.encoder = Encoder(cfg)
        self.decoder = Decoder(cfg, self.token_embedder)

    def embed(self, encoder_input_tokens: Array, encoder_segment_ids: Array | None = None) -> Array:
        """The encoder's inputs [B, S] -> [B, S, D]: token plus whole-word embeddings."""
        embedded = self.token_embedder(encoder_input_tokens)
        if self.config.whole_words:
            words = whole_word_ids(encoder_input_tokens, self._word_starts(), encoder_segment_ids)
            embedded = embedded + self.whole_word_embedder(words)
        return embedded

    def _word_starts(self) -> Array:
        cfg = self.config
        if not cfg.word_starts:
            raise UserError(
                "T5Config.word_starts: found nothing, expected the vocabulary's packed word starts "
                "(or whole_words=False)"
            )
        bits = np.unpackbits(np.frombuffer(cfg.word_starts, np.uint8)).astype(bool)
        table = np.zeros(cfg.vocab_size, bool)
        count = min(len(bits), cfg.vocab_size)
        table[:count] = bits[:count]
        return jnp.asarray(table)

    def encode(
        self,
        encoder_input_tokens: Array,
        encoder_segment_ids: Array | None = None,
        enable_dropout: bool = True,
    ) -> Array:
        """The encoded source: [B, S] -> [B, S, D]."""
        embedded = self.embed(encoder_input_tokens, encoder_segment_ids)
        return self.encode_embedded(
            embedded, encoder_input_tokens, encoder_segment_ids, enable_dropout
        )

    def encode_embedded(
        self,
        embedded: Array,
        encoder_input_tokens: Array,
        encoder_segment_ids: Array | None = None,
        enable_dropout: bool = True,
    ) -> Array:
        """The encoded source of embedded inputs [B, S, D] -> [B, S, D].

        encoder_input_tokens [B, S] only says what is padding (0); a soft prefix has any id but 0.
        """
        mask = (encoder_input_tokens != PAD_ID)[:, None, None, :]
        if encoder_segment_ids is not None:
            mask = mask & same_segment(encoder_segment_ids, encoder_segment_ids)
        return self.encoder(embedded, mask, not enable_dropout)

    def project_encoded(self, encoded: Array) -> None:
        """Write the decoder's keys and values of the source to the `cross` collection.

        For decoding many steps or rows against one source: apply it with mutable=["cross"], then
        give `decode` the collection {"params": …, "cache": …, "cross": …}.
        """
        self.decoder.project(encoded)

    def decode(
        self,
        encoded: Array,
        encoder_input_tokens: Array,
        decoder_input_tokens: Array,
        decoder_target_tokens: Array,
        encoder_segment_ids: Array | None = None,
        decoder_segment_ids: Array | None = None,
        decoder_positions: Array | None = None,
        enable_dropout: bool = True,
        decode: bool = False,
        max_decode_length: int | None = None,
        past_mask: Array | None = None,
        project: bool = True,
    ) -> Array:
        """Logits [B*G, T, V] float32 of targets [B*G, T] given `encoded` [B, S, D].

        With G > 1, G successive rows share one source. decoder_segment_ids alone (no
        encoder_segment_ids) keep candidates in one row apart while all see the whole source.
        decode=True: the first call, with tokens [B*G, L], makes the `cache` collection; each later
        call consumes the next token(s), [B*G, 1], and its cache (mutable=["cache"]).
        past_mask [B*G, A] bool: the targets follow A tokens of their own row, whose keys and values
        the `past` collection holds, the newest last; those that are False are not there.
        project=False: the states [B*G, T, D] that `logits` takes, instead.
        """
        if decode and (encoder_segment_ids is not None or decoder_segment_ids is not None):
            raise ValueError("decode=True takes no packed rows: found segment ids")
        cross_mask = (encoder_input_tokens != PAD_ID)[:, None, None, :]
        if encoder_segment_ids is not None:
            if decoder_segment_ids is None:
                raise ValueError("encoder_segment_ids need decoder_segment_ids")
            cross_mask = cross_mask & same_segment(decoder_segment_ids, encoder_segment_ids)
        states = self.decoder(
            encoded,
            decoder_input_tokens,
            decoder_segment_ids,
            cross_mask,
            not enable_dropout,
            decode,
            max_decode_length,
            past_mask,
        )
        return self.logits(states) if project else states

    def logits(self, states: Array) -> Array:
        """Logits [..., T, V] float32 of the decoder's last states [..., T, D]."""
        return self.decoder.logits(states)

    def __call__(
        self,
        encoder_input_tokens: Array,
        decoder_input_tokens: Array,
        decoder_target_tokens: Array,
        encoder_segment_ids: Array | None = None,
        decoder_segment_ids: Array | None = None,
        encoder_positions: Array | None = None,
        decoder_positions: Array | None = None,
        *,
        enable_dropout: bool = True,
        decode: bool = False,
        project: bool = True,
    ) -> Array:
        """Logits [B, T, V] float32 of [B, S] sources and [B, T] shifted targets.

        project=False: the states [B, T, D] that `logits` takes, instead.
        """
        encoded = self.encode(encoder_input_tokens, encoder_segment_ids, enable_dropout)
        return self.decode(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            decoder_target_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            decoder_positions,
            enable_dropout,
            decode,
            project=project,
        )


def init_params(model: Transformer, rng: Array) -> Params:
    """Fresh float32 parameters as nested dicts, the same for every mesh and batch size."""
    tokens = _two_tokens()
    return fresh_params(model, rng, tokens, tokens, tokens, enable_dropout=False)


def param_axes(model: Transformer) -> dict[str, Any]:
    """The parameters' tree with a tuple of logical axis names at each leaf."""
    tokens = _two_tokens()
    return logical_axes(model, tokens, tokens, tokens, enable_dropout=False)


def _two_tokens() -> Array:
    """The shortest inputs [1, 2] with which a model can be initialised."""
    return jnp.ones((1, 2), jnp.int32)
