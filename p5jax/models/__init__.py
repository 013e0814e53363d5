"""The T5 encoder-decoder and the readers and writers of its checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p5jax.core.lazy import imported_when_used

if TYPE_CHECKING:
    from p5jax.models.t5 import Transformer
    from p5jax.models.t5_config import T5Config

__all__ = ["T5Config", "Transformer"]
__getattr__ = imported_when_used(
    __name__,
    {
        "T5Config": "p5jax.models.t5_config:T5Config",
        "Transformer": "p5jax.models.t5:Transformer",
    },
)
