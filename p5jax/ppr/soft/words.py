"""Soft prefixes as tokens past a T5's vocabulary: row p of user u's prefix is token V + u * P + p.

Their embeddings are in no table of the model but made from the users' profiles. What reads token
arrays (the objective, ranking, decoding) reads these too; texts and the vocabulary know nothing of
them: the users of a batch travel as an array beside its texts.

Letters: B batch, S source length, P prefix rows, U users, D model, V vocabulary.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import ArrayLike

from p5jax.models.initial import Params
from p5jax.models.layers import Array
from p5jax.models.t5 import PAD_ID, Transformer

PREFIX_TABLE = "prefix"  # the parameter that holds the soft tokens' embeddings


class PrefixedTransformer(Transformer):
    """A T5 that reads soft tokens, embedded by the parameter `prefix` [N, D]: token V + n by row n.

    They are no words of the text: they have no whole-word embedding and do not count.
    """

    def embed(self, encoder_input_tokens: Array, encoder_segment_ids: Array | None = None) -> Array:
        """The encoder's inputs [B, S] -> [B, S, D]: a soft token's row, else as the model's."""
        rows = encoder_input_tokens - self.config.vocab_size
        text = jnp.where(rows < 0, encoder_input_tokens, PAD_ID)
        embedded = super().embed(text, encoder_segment_ids)
        prefix: Array = self.get_variable("params", PREFIX_TABLE)
        if not prefix.shape[0]:
            return embedded
        soft = jnp.take(prefix.astype(embedded.dtype), rows, axis=0, mode="clip")
        return jnp.where(rows[..., None] < 0, embedded, soft)


def prefixed_sources(tokens: ArrayLike, users: ArrayLike, vocab_size: int, length: int) -> Array:
    """Return sources [B, S] behind the soft tokens of their users [B]: int32 [B, P + S]."""
    first = vocab_size + jnp.asarray(users, jnp.int32)[:, None] * length
    soft = first + jnp.arange(length)  # [B, P]
    return jnp.concatenate([soft, jnp.asarray(tokens, jnp.int32)], axis=1)


def with_prefixes(params: Params, prefixes: Array) -> Params:
    """Return a T5's parameters with the prefixes [N, P, D] of N users.

    [N, P, D] -> [N * P, D], a row for each soft token.
    """
    return {**params, PREFIX_TABLE: prefixes.reshape(-1, prefixes.shape[-1])}
