"""Soft prefixes as words of a longer vocabulary: each user has one, of P tokens that no text has.

Token V + u * P + p is row p of user u's prefix; its embedding is in no table of the model but made
from the user's profile. Whatever takes tokens (pipeline, ranking, decoding) takes these.

Letters: B batch, S source length, P prefix rows, U users, D model, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from p5jax.models.layers import Array
from p5jax.models.t5 import PAD_ID, Transformer
from p5jax.text.vocabulary import Vocabulary

PREFIX = "prefix"  # the parameter that holds the soft tokens' embeddings
_MARK = "\ue000"  # a private character: no text of users or items is read as a soft word
_WORD = re.compile(f" ?{_MARK}(\\d+)(?: |$)")


def soft_word(user: int) -> str:
    """The word that stands for a user's prefix in a prompt's text."""
    return f"{_MARK}{user}"


class SoftVocabulary(Vocabulary):
    """A vocabulary that also knows the users' soft words, `length` tokens each.

    The text after a soft word is encoded as if it stood alone.
    """

    def __init__(self, model: bytes, id_tokens: Sequence[str], length: int):
        super().__init__(model, id_tokens)
        self.length = length
        self.fingerprint = f"{self.fingerprint}+{length}"

    @classmethod
    def of(cls, vocabulary: Vocabulary, length: int) -> SoftVocabulary:
        """The words of a vocabulary, and soft ones."""
        model, id_tokens = vocabulary.__reduce__()[1]
        return cls(model, id_tokens, length)

    def __reduce__(self) -> tuple[Any, ...]:
        model, id_tokens = super().__reduce__()[1]
        return SoftVocabulary, (model, id_tokens, self.length)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without an end-of-sequence id."""
        word = _WORD.search(text)
        if word is None:
            return super().encode(text)
        first = self.padded_size + int(word[1]) * self.length
        ids = super().encode(text[: word.start()]) if word.start() else []
        return [*ids, *range(first, first + self.length), *super().encode(text[word.end() :])]


class PrefixedTransformer(Transformer):
    """A T5 that reads soft tokens, embedded by the parameter `prefix` [N, D]: token V + n by row n.

    They are no words of the text: they have no whole-word embedding and do not count.
    """

    def embed(self, encoder_input_tokens: Array, encoder_segment_ids: Array | None = None) -> Array:
        """The encoder's inputs [B, S] -> [B, S, D]: a soft token's row, else as the model's."""
        rows = encoder_input_tokens - self.config.vocab_size
        text = jnp.where(rows < 0, encoder_input_tokens, PAD_ID)
        embedded = super().embed(text, encoder_segment_ids)
        prefix: Any = self.get_variable("params", PREFIX)
        if not prefix.shape[0]:
            return embedded
        soft = jnp.take(prefix.astype(embedded.dtype), rows, axis=0, mode="clip")
        return jnp.where(rows[..., None] < 0, embedded, soft)


def users_of(tokens: Array, vocab_size: int, length: int) -> Array:
    """The user whose prefix each source [B, S] begins with: [B], 0 where it has none."""
    return jnp.maximum(tokens[:, 0] - vocab_size, 0) // length


def rows_of_batch(tokens: Array, vocab_size: int, length: int) -> Array:
    """Sources [B, S] in which row b's soft tokens are V + b * P … instead of the user's own, so
    that only the batch's B * P prefix rows have to be made."""
    own = jnp.arange(len(tokens))[:, None] * length + (tokens - vocab_size) % length
    return jnp.where(tokens < vocab_size, tokens, vocab_size + own)


def with_prefix(params: Any, prompts: jax.Array) -> dict[str, Any]:
    """A T5's parameters with the prompts [N, P, D] of N users, or of the rows of a batch."""
    return {**params, PREFIX: prompts.reshape(-1, prompts.shape[-1])}
