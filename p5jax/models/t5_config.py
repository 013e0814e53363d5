"""The sizes and switches of a T5."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.settings import BELOW_ONE, COUNT, SIZE, at_least, check
from p5jax.models.layers import ACTIVATIONS
from p5jax.text.vocabulary import Vocabulary

LIKELIHOODS = ("vocabulary", "children")
OF_VOCABULARY = ("word_starts", "first_id_token")  # fields that a run does not store


@dataclass(frozen=True)
class T5Config:
    """The sizes of a T5; the defaults are T5-small v1.0 (v1.1: gelu + linear, untied logits)."""

    vocab_size: int
    emb_dim: int = 512
    num_heads: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    head_dim: int = 64
    mlp_dim: int = 2048
    mlp_activations: tuple[str, ...] = ("relu",)
    dropout_rate: float = 0.1
    # None: dropout_rate. With little data dropout in the decoder sharpens what it predicts without
    # it: frequent answers, such as five stars, become too probable.
    decoder_dropout_rate: float | None = None
    # At decoder positions that read an id token, attention and output aside; None: the decoder's.
    # With little data the next item wants much of it, and stars and texts bear little.
    item_dropout_rate: float | None = None
    # After the last norm of encoder and decoder. None: the stack's rate, as T5. Small models that
    # need much dropout learn nothing through one in front of the logits.
    output_dropout_rate: float | None = None
    logits_via_embedding: bool = True
    dtype: str = "float32"  # of activations; parameters, softmax and logits stay float32
    whole_words: bool = True
    word_starts: bytes = b""  # np.packbits of Vocabulary.word_starts
    first_id_token: int = 0  # Vocabulary.first_id_token, from which on tokens are of items' ids
    float32_attention_logits: bool = True
    relpos_buckets: int = 32
    relpos_max_distance: int = 128
    # Of a token of an item id, in training and in rankings: over the whole vocabulary, or over the
    # tokens that can continue the id. See training.children; modules know nothing of it.
    likelihood: str = "vocabulary"

    def __post_init__(self) -> None:
        sizes = ("emb_dim", "num_heads", "num_encoder_layers", "num_decoder_layers", "head_dim")
        check(
            self,
            vocab_size=COUNT,
            first_id_token=COUNT,
            **dict.fromkeys((*sizes, "mlp_dim"), SIZE),
            mlp_activations=ACTIVATIONS,
            dropout_rate=BELOW_ONE,
            decoder_dropout_rate=BELOW_ONE,
            item_dropout_rate=BELOW_ONE,
            output_dropout_rate=BELOW_ONE,
            dtype=("float32", "bfloat16"),
            relpos_buckets=at_least(4),  # fewer would leave no bucket for a direction's distances
            relpos_max_distance=SIZE,
            likelihood=LIKELIHOODS,
        )
        if not self.mlp_activations:
            raise UserError("T5Config.mlp_activations: found none, expected at least one")
        if self.relpos_max_distance <= self.relpos_buckets // 2:
            raise UserError(
                f"T5Config.relpos_max_distance: found {self.relpos_max_distance}, expected more"
                f" than half of relpos_buckets = {self.relpos_buckets}"
            )

    def for_vocabulary(self, vocabulary: Vocabulary) -> T5Config:
        """Return the same sizes with what a vocabulary says.

        UserError for dropout of items whose ids are numbers, which have no tokens of their own.
        """
        if self.item_dropout_rate is not None and not vocabulary.id_tokens:
            raise UserError(
                f"T5Config.item_dropout_rate: found {self.item_dropout_rate} and item ids that are"
                " numbers, expected ids of tokens (token, semantic or collaborative)"
            )
        return replace(
            self,
            vocab_size=vocabulary.padded_size,
            word_starts=np.packbits(vocabulary.word_starts).tobytes(),
            first_id_token=vocabulary.first_id_token,
        )
