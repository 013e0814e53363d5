"""The floating-point operations of a T5's matrix products, counted from shapes.

Letters: B batch, S source length, T target length, D model, H heads, K head width, V vocabulary.
"""

from __future__ import annotations

from p5jax.models.t5_config import T5Config


def forward_flops(config: T5Config, rows: int, source: int, target: int) -> int:
    """Operations of the products that make logits [B, T, V] of [B, S] sources and [B, T] targets.

    A product [M, N] @ [N, O] is 2 M N O. Padding counts: it is multiplied too. Norms, softmax and
    the position bias do not count (under 3 % of T5-small's).
    """
    width, joined = config.emb_dim, config.num_heads * config.head_dim
    feed_forward = 2 * width * config.mlp_dim * (len(config.mlp_activations) + 1)
    projection = 2 * width * joined  # of one position: to queries, keys or values, or from heads

    def attention(queries: int, keys: int) -> int:
        products = 2 * (2 * queries * keys * joined)  # with keys, then with values
        return 2 * queries * projection + 2 * keys * projection + products

    encoder = attention(source, source) + source * feed_forward
    decoder = attention(target, target) + attention(target, source) + target * feed_forward
    layers = config.num_encoder_layers * encoder + config.num_decoder_layers * decoder
    return rows * (layers + 2 * target * width * config.vocab_size)


def training_flops(config: T5Config, rows: int, source: int, target: int) -> int:
    """Operations of a training step in which every parameter has a gradient: 3 times the forward's.

    Each product's gradient is two as large: by its input and by its kernel. Nothing is computed
    again in the backward pass (no rematerialisation), and if it were it would not count: so the
    figure is that of model FLOPs utilisation (Chowdhery et al. 2022, appendix B).
    """
    return 3 * forward_flops(config, rows, source, target)
