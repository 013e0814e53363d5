"""The sizes and switches of a T5."""

from __future__ import annotations

from dataclasses import dataclass

from p5jax.core.errors import UserError
from p5jax.models.layers import ACTIVATIONS


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
    logits_via_embedding: bool = True
    dtype: str = "float32"  # of activations; parameters, softmax and logits stay float32
    whole_words: bool = True
    word_starts: bytes = b""  # np.packbits of Vocabulary.word_starts
    float32_attention_logits: bool = True
    relpos_buckets: int = 32
    relpos_max_distance: int = 128

    def __post_init__(self) -> None:
        # gin gives lists; the config must hash, because Flax keeps it as a static attribute.
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"T5Config.dtype: found {self.dtype!r}, expected float32 or bfloat16")
        for name in self.mlp_activations:
            if name not in ACTIVATIONS:
                raise UserError(
                    f"T5Config.mlp_activations: found {name!r}, expected {', '.join(ACTIVATIONS)}"
                )
