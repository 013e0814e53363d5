"""p5jax's own model under t5x: what the gin files of gin/t5x/ name. Needs t5x and [seqio].

The module's sizes are the `T5Config` bindings that `p5jax train` takes too, its vocabulary is the
tasks'. Importing this lets t5x's gin files include p5jax's (`include 'models/small.gin'`).
"""

from __future__ import annotations

import importlib.util  # noqa: F401  gin 0.5 uses it without importing it
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from t5x import models

from gin import config as gin  # type: ignore[attr-defined]
from p5jax.core import config
from p5jax.core.errors import UserError
from p5jax.models.t5 import T5Config, Transformer
from p5jax.tasks.registry import find, vocabulary_of

__all__ = ["EncoderDecoderModel", "parameters_only", "part_of", "transformer", "vocabulary_of"]

config.register_configs(T5Config)
gin.add_config_file_search_path(str(config.gin_folder()))


def part_of(mixture: str, part: str = "") -> str:
    """The name of a mixture or of a part of it, once it is registered.

    part: what follows `p5_<dataset>_` in the part's name: "sequential", "sequential_2_3",
    "zeroshot", "without_rating"; "" for the mixture. UserError when there is none.
    """
    name = f"{mixture}_{part}" if part else mixture
    find(name)
    return name


def transformer(name: str) -> Transformer:
    """The module for a registered task or mixture: gin's T5Config sizes, the mixture's vocabulary.

    UserError when there is no such mixture or a size is of the wrong type.
    """
    vocabulary = vocabulary_of(name).vocabulary
    starts = np.packbits(vocabulary.word_starts).tobytes()
    return Transformer(
        config.build(T5Config, vocab_size=vocabulary.padded_size, word_starts=starts)
    )


class EncoderDecoderModel(models.EncoderDecoderModel):
    """t5x's model over p5jax's module; all decodes of an example come best first, not last.

    That is how the tasks' metrics take them.
    """

    def get_initial_variables(
        self,
        rng: jax.Array,
        input_shapes: Mapping[str, Any],
        input_types: Mapping[str, Any] | None = None,
    ) -> Any:
        # t5x.eval gives no types; tokens would then be floats, which t5x's own network casts.
        types = dict.fromkeys(input_shapes, jnp.dtype(jnp.int32)) | dict(input_types or {})
        return super().get_initial_variables(rng, input_shapes, types)

    def predict_batch_with_aux(
        self,
        params: Any,
        batch: Mapping[str, jax.Array],
        rng: jax.Array | None = None,
        **options: Any,
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        decodes, aux = super().predict_batch_with_aux(params, batch, rng, **options)
        if decodes.ndim == 3:  # [batch, decodes, length]
            decodes, aux = decodes[:, ::-1], {"scores": aux["scores"][:, ::-1]}
        return decodes, aux


def parameters_only(
    state_dict: Mapping[str, Any],
    target_state_dict: Mapping[str, Any],
    *,
    is_resuming: bool = False,
) -> Mapping[str, Any]:
    """A transformation of a restored state (t5x's protocol): the optimizer starts afresh.

    So checkpoints of `p5jax train`, whose optimizers are optax's, serve as well as t5x's. With
    `fallback_to_scratch`, without which t5x refuses a state that lacks the optimizer's, t5x would
    also start each parameter that is missing from random values: here that is a UserError.
    """
    if is_resuming:
        return state_dict
    _refuse_others(state_dict["target"], target_state_dict["target"])
    return {"target": state_dict["target"], "state": {"step": state_dict["state"]["step"]}}


def _refuse_others(found: Mapping[str, Any], expected: Mapping[str, Any], place: str = "") -> None:
    """Walk along the expected tree: in a file an array may be a mapping that describes it."""
    for key in sorted({*found, *expected}):
        path = f"{place}{key}"
        if key not in found:
            raise UserError(
                f"INITIAL_CHECKPOINT_PATH: found no array {path}, expected that of"
                " another T5Config (whole_words = False if it has no whole-word table)"
            )
        if key not in expected:
            raise UserError(
                f"INITIAL_CHECKPOINT_PATH: found {path}, which this T5Config does not have"
            )
        if isinstance(expected[key], Mapping):
            _refuse_others(found[key], expected[key], f"{path}/")
