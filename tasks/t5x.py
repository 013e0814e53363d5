"""p5jax's own model under t5x: what the gin files of gin/t5x/ name.

`t5x.models.EncoderDecoderModel` takes `transformer` as its module; sizes are those of the same
`T5Config` bindings as for `p5jax train`. Importing this module lets t5x's gin files include p5jax's
(`include 'models/small.gin'`). It does not import t5x: t5x calls it.
"""

from __future__ import annotations

import importlib.util  # noqa: F401  gin 0.5 uses it without importing it

import numpy as np
from p5jax.tasks.registry import vocabulary_of

from gin import config as gin  # type: ignore[attr-defined]
from p5jax import config
from p5jax.models.t5 import T5Config, Transformer

__all__ = ["T5Config", "transformer", "vocabulary_of"]

config.register(T5Config)
gin.add_config_file_search_path(str(config.gin_folder()))


@gin.configurable(module="p5jax.tasks.t5x")
def transformer(name: str) -> Transformer:
    """The module for a registered task or mixture: gin's T5Config sizes, the mixture's vocabulary.

    UserError when there is no such mixture or a size is of the wrong type.
    """
    vocabulary = vocabulary_of(name).vocabulary
    starts = np.packbits(vocabulary.word_starts).tobytes()
    return Transformer(
        config.build(T5Config, vocab_size=vocabulary.padded_size, word_starts=starts)
    )
