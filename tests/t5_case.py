"""A small T5 with its methods under jit without dropout, and tokens for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from small_model import RUN_MODEL

from p5jax.models.t5 import T5Config, Transformer, init_params

V = 64
WORD_STARTS = np.arange(V) % 2 == 0  # even tokens start a word
V10 = dataclasses.replace(
    RUN_MODEL,
    vocab_size=V,
    num_encoder_layers=2,
    num_decoder_layers=2,
    whole_words=True,
    word_starts=np.packbits(WORD_STARTS).tobytes(),
)
V11 = dataclasses.replace(V10, mlp_activations=("gelu", "linear"), logits_via_embedding=False)
CONFIGS = {"v1.0": V10, "v1.1": V11}


class Case:
    """One small model with parameters, and its methods under jit without dropout."""

    def __init__(self, config: T5Config) -> None:
        self.config = config
        self.model = Transformer(config)
        self.params = init_params(self.model, jax.random.key(0))
        self.encode = self._method("encode")
        self.decode = self._method("decode")
        self.logits = self._method("__call__")

    def _method(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> jax.Array:
            variables = {"params": self.params}
            method = getattr(Transformer, name)
            return self.model.apply(variables, *args, **kwargs, enable_dropout=False, method=method)

        return jax.jit(call)


def tokens(seed: int, rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, V, (rows, length)).astype(np.int32)


def shifted(targets: np.ndarray) -> np.ndarray:
    return np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
