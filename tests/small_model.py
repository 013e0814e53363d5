"""A T5 small enough to score every answer by itself, and that scoring: the searches' oracle."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from p5jax.models.t5 import Transformer
from p5jax.models.t5_config import T5Config

# Of a run, whose vocabulary says the size.
RUN_MODEL = T5Config(
    vocab_size=0,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=32,
    whole_words=False,
)


def small_model(vocabulary: int) -> Transformer:
    """One encoder and two decoder layers of 16."""
    return Transformer(replace(RUN_MODEL, vocab_size=vocabulary, num_decoder_layers=2))


def padded(sequences: Any) -> np.ndarray:
    """Token sequences as one array [N, L], padded with 0."""
    width = max(map(len, sequences))
    return np.array([(*s, *[0] * (width - len(s))) for s in sequences], np.int32)


def token_log_probabilities(
    model: Transformer, params: Any, sources: Any, targets: np.ndarray
) -> np.ndarray:
    """Each target's tokens' log-probabilities over the vocabulary [B, N, L, V].

    Sources [B, S], targets [N, L]. Every pair is decoded alone, uncached: a batch of one.
    """
    return np.array([_alone(model, params, source, targets) for source in sources], np.float64)


@partial(jax.jit, static_argnames="model")
def _alone(model: Transformer, params: Any, source: jax.Array, targets: jax.Array) -> jax.Array:
    def one(pair: tuple[jax.Array, jax.Array]) -> jax.Array:
        fed, target = pair
        logits = model.apply(
            {"params": params}, source[None], fed[None], target[None], enable_dropout=False
        )
        return jax.nn.log_softmax(logits[0])

    return lax.map(one, (jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1], targets))


def log_probabilities(model: Transformer, params: Any, sources: Any, ids: Any) -> np.ndarray:
    """Log-probability of every id for every source [B, I]; ids end with the end of sequence."""
    targets = padded(ids)
    by_token = token_log_probabilities(model, params, sources, targets)
    chosen = np.take_along_axis(by_token, targets[None, :, :, None], axis=3)[..., 0]
    return (chosen * (targets > 0)).sum(axis=2)
