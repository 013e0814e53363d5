"""The names and shapes of a Hugging Face T5's tensors beside those of p5jax's parameters."""

from __future__ import annotations

from collections.abc import Iterator

from p5jax.models.t5 import WHOLE_WORDS
from p5jax.models.t5_config import T5Config

TensorPath = tuple[str, ...]
WHOLE_WORD_TENSOR = "encoder.whole_word_embeddings.weight"
WHOLE_WORD_PATH: TensorPath = ("whole_word_embedder", "embedding")
LOGITS_PATH: TensorPath = ("decoder", "logits_dense", "kernel")

# Copies of shared.weight, and a table that T5 never reads.
IGNORED = (
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
)
# feed_forward_proj -> T5Config.mlp_activations
PROJECTIONS = {
    "relu": ("relu",),
    "silu": ("silu",),
    "gated-relu": ("relu", "linear"),
    "gated-gelu": ("gelu", "linear"),
    "gated-silu": ("silu", "linear"),
}


def checkpoint_tensors(config: T5Config) -> Iterator[tuple[str, TensorPath, tuple[int, ...], bool]]:
    """Every parameter: Hugging Face name, p5jax path, Hugging Face shape, whether to transpose."""
    d, width = config.emb_dim, config.num_heads * config.head_dim
    yield "shared.weight", ("token_embedder", "embedding"), (config.vocab_size, d), False
    if config.whole_words:
        yield WHOLE_WORD_TENSOR, WHOLE_WORD_PATH, (WHOLE_WORDS, d), False
    if not config.logits_via_embedding:
        yield "lm_head.weight", LOGITS_PATH, (config.vocab_size, d), True
    single = len(config.mlp_activations) == 1
    wi = ("wi",) if single else tuple(f"wi_{n}" for n in range(len(config.mlp_activations)))
    attention_blocks = {
        "encoder": (("SelfAttention", "attention", "pre_attention_layer_norm"),),
        "decoder": (
            ("SelfAttention", "self_attention", "pre_self_attention_layer_norm"),
            ("EncDecAttention", "encoder_decoder_attention", "pre_cross_attention_layer_norm"),
        ),
    }
    depth = {"encoder": config.num_encoder_layers, "decoder": config.num_decoder_layers}
    for stack, blocks in attention_blocks.items():
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        shape = (config.relpos_buckets, config.num_heads)
        yield bias, (stack, "relpos_bias", "rel_embedding"), shape, True
        norm = f"{stack}_norm"
        yield f"{stack}.final_layer_norm.weight", (stack, norm, "scale"), (d,), False
        for number in range(depth[stack]):
            ours = (stack, f"layers_{number}")
            for sublayer, (theirs, block, norm) in enumerate(blocks):
                prefix = f"{stack}.block.{number}.layer.{sublayer}"
                yield f"{prefix}.layer_norm.weight", (*ours, norm, "scale"), (d,), False
                for letter, part in zip("qkvo", ("query", "key", "value", "out"), strict=True):
                    shape = (d, width) if letter == "o" else (width, d)
                    path = (*ours, block, part, "kernel")
                    yield f"{prefix}.{theirs}.{letter}.weight", path, shape, True
            prefix = f"{stack}.block.{number}.layer.{len(blocks)}"
            norm = "pre_mlp_layer_norm"
            yield f"{prefix}.layer_norm.weight", (*ours, norm, "scale"), (d,), False
            for part in (*wi, "wo"):
                shape = (d, config.mlp_dim) if part == "wo" else (config.mlp_dim, d)
                name = f"{prefix}.DenseReluDense.{part}.weight"
                yield name, (*ours, "mlp", part, "kernel"), shape, True
