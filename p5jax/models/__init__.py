"""The T5 encoder-decoder and the readers and writers of its checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p5jax.models.t5 import Transformer
    from p5jax.models.t5_config import T5Config

__all__ = ["T5Config", "Transformer"]


def __getattr__(name: str) -> Any:
    # Only where they are asked for: importing this package must not import jax.
    if name == "T5Config":
        from p5jax.models.t5_config import T5Config

        return T5Config
    if name == "Transformer":
        from p5jax.models.t5 import Transformer

        return Transformer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
