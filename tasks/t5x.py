"""p5jax's own model under t5x: what the gin files of gin/t5x/ name. Needs t5x and [seqio].

The module's sizes are the `T5Config` bindings that `p5jax train` takes too, its vocabulary is the
tasks'. Importing this lets t5x's gin files include p5jax's (`include 'models/small.gin'`) and sets
up t5x's programs as `p5jax.tasks.t5x_program` says.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from t5x import models

from p5jax.core import config
from p5jax.core.errors import UserError, nearest
from p5jax.models.t5 import T5Config, Transformer
from p5jax.prompts.families import FamilyConfig
from p5jax.tasks import t5x_program
from p5jax.tasks.registry import find, vocabulary_of

__all__ = [
    "EncoderDecoderModel",
    "absolute",
    "checkpoint",
    "family_config",
    "parameters_only",
    "part_of",
    "relative_steps",
    "split_of",
    "transformer",
    "vocabulary_of",
]

config.register_configs(T5Config)
t5x_program.install()


def absolute(path: str) -> str:
    """A folder's path as Orbax wants it: absolute, unless it is a URL (gs://...)."""
    return path if "://" in path else str(Path(path).absolute())


def checkpoint(path: str | Sequence[str]) -> str | list[str]:
    """The absolute path of a checkpoint, or of each of several, or of a folder of checkpoints.

    UserError when there is none.
    """
    if not isinstance(path, str):
        return [str(checkpoint(each)) for each in path]
    found = absolute(path)
    if "://" not in found and not _is_checkpoint(Path(found)):
        raise UserError(
            f"{path}: found no checkpoint, expected a folder such as RUN/checkpoints/checkpoint_N"
            " or MODEL_DIR/checkpoint_N"
        )
    return found


def _is_checkpoint(path: Path) -> bool:
    """Whether this is Orbax's or t5x's own, a folder of such, or TensorFlow's, which is files."""
    if not path.is_dir():
        return any(path.parent.glob(f"{glob.escape(path.name)}*"))
    inside = "state", "checkpoint", "checkpoint_*"
    return any(next(path.glob(name), None) for name in inside)


def family_config(lengths: Mapping[str, int] | None) -> FamilyConfig:
    """The sampling's parameters: gin's FamilyConfig, its prompts as long as t5x lets inputs be.

    lengths: t5x's TASK_FEATURE_LENGTHS, None for as long as they come. A prompt that is too long
    loses history, not its end. UserError when FamilyConfig.max_source asks for more.
    """
    if lengths is None:
        return config.build(FamilyConfig)
    if set(lengths) != {"inputs", "targets"} or not all(
        type(length) is int and length > 0 for length in lengths.values()
    ):
        expected = "{'inputs': 512, 'targets': 64} or other lengths"
        raise UserError(f"TASK_FEATURE_LENGTHS: found {lengths}, expected {expected}")
    made = config.build(FamilyConfig, max_source=lengths["inputs"])
    if made.max_source > lengths["inputs"]:
        raise UserError(
            f"FamilyConfig.max_source: found {made.max_source}, expected at most the"
            f" {lengths['inputs']} of TASK_FEATURE_LENGTHS['inputs']"
        )
    return made


def relative_steps(total: int | None, relative: int | None, default: int) -> int | None:
    """The steps after the checkpoint's; None where TRAIN_STEPS, which counts both, is given.

    UserError when TRAIN_STEPS and TRAIN_STEPS_RELATIVE are.
    """
    if total is not None and relative is not None:
        raise UserError(
            f"TRAIN_STEPS: found {total}, expected none beside TRAIN_STEPS_RELATIVE = {relative}"
        )
    return default if total is None and relative is None else relative


def part_of(mixture: str, part: str = "") -> str:
    """The name of a mixture or of a part of it, once it is registered.

    part: what follows `p5_<dataset>_` in the part's name: "sequential", "sequential_2_3",
    "zeroshot", "without_rating"; "" for the mixture. UserError when there is none.
    """
    name = f"{mixture}_{part}" if part else mixture
    find(name)
    return name


def split_of(name: str, split: str) -> str:
    """The split; UserError when neither the task nor any of the mixture's has one of that name."""
    known = sorted(find(name).splits)
    if split not in known:
        expected = f"expected one of {', '.join(known)}{nearest(split, known)}"
        raise UserError(f"SPLIT: found {split!r}, {expected}")
    return split


def transformer(name: str) -> Transformer:
    """The module for a registered task or mixture: gin's T5Config sizes, the mixture's vocabulary.

    UserError when there is no such mixture, a size is of the wrong type, or the model's loss is not
    over the vocabulary, as t5x's is.
    """
    vocabulary = vocabulary_of(name).vocabulary
    sizes = config.build(T5Config, vocab_size=0).for_vocabulary(vocabulary)
    if sizes.likelihood != "vocabulary":
        found = f"T5Config.likelihood: found {sizes.likelihood!r}"
        raise UserError(f"{found}, expected 'vocabulary', over which t5x has its loss")
    return Transformer(sizes)


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
