"""The examples of one task, and the preprocessor that renders them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from p5jax.data.dataset import SPLITS
from p5jax.evaluation.task import kind_of
from p5jax.prompts.families import Example, Family, example_rng
from p5jax.tasks.calls import numpy_function

# The fields that rendering adds to an example's numbers.
_FIELDS: Mapping[str, tf.DType] = {
    "inputs": tf.string,
    "targets": tf.string,
    "prompt": tf.string,
    "kind": tf.string,
    "answer": tf.string,
    "given": tf.string,
    "user": tf.int32,
    "item": tf.int32,
    "user_key": tf.string,  # the dataset's own keys, for those who read what a model answered
    "item_key": tf.string,
}


@dataclass(frozen=True)
class TaskExamples:
    """A family's examples under seen prompts sampled per example (`prompts` empty), or under each
    of the given prompts, one after the other. Training samples from (seed, epoch, index)."""

    family: Family
    prompts: tuple[str, ...]
    splits: tuple[str, ...]
    seed: int

    def sizes(self) -> dict[str, int]:
        """Return the examples of each split that has some."""
        sizes = {split: sum(self._sizes(split)) for split in SPLITS if split in self.splits}
        return {split: size for split, size in sizes.items() if size}

    def example(self, split: str, epoch: int, index: int) -> Example:
        """Return an example, in training the same as the native pipeline's at that position."""
        prompt = None
        if self.prompts:
            ends = list(accumulate(self._sizes(split)))
            place = next(n for n, end in enumerate(ends) if index < end)
            prompt, index = self.prompts[place], index - (ends[place - 1] if place else 0)
        rng = example_rng(self.seed, epoch, self.family.name, index) if split == "train" else None
        return self.family.example(split, index, rng, prompt)

    def kinds(self) -> set[str]:
        """Return how these examples are judged: keys of p5jax's evaluators.

        A prompt that no record can fill is not judged: without stars none asks for them.
        """
        templates = [self.family.templates[id] for id in self.prompts] or self.family.seen
        return {
            kind_of(template)
            for template in templates
            if any(self.family.size(split, template.id) for split in self.splits)
        }

    def render(self, numbers: tf.data.Dataset) -> tf.data.Dataset:
        """Add to each element's numbers the example's texts and what its metrics need."""
        dataset = self.family.source.dataset

        def values(split: bytes, epoch: int, index: int) -> list[Any]:
            example = self.example(split.decode(), int(epoch), int(index))
            template = self.family.templates[example.prompt_id]
            about = (template.id, kind_of(template), self._answer(example), example.given)
            texts = (example.inputs, example.targets, *about)
            pair = np.int32(example.user), np.int32(example.item)
            keys = dataset.user_keys[example.user], dataset.item_keys[example.item]
            return [*(t.encode() for t in texts), *pair, *(key.encode() for key in keys)]

        def fields(number: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            given = [number[name] for name in ("split", "epoch", "index")]
            types = list(_FIELDS.values())
            found = numpy_function(values, given, types)
            return number | {
                name: tf.ensure_shape(value, ()) for name, value in zip(_FIELDS, found, strict=True)
            }

        return numbers.map(fields, num_parallel_calls=tf.data.AUTOTUNE)

    def _answer(self, example: Example) -> str:
        """Return what an answer is compared with: stars, the text, the word, or the item's id."""
        if example.answer is None:
            return self.family.source.dataset.item_ids[example.item]
        if isinstance(example.answer, float):
            return f"{example.answer:g}"
        return example.answer

    def _sizes(self, split: str) -> list[int]:
        return [self.family.size(split, prompt) for prompt in self.prompts or (None,)]


def append_eos(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    sequence_length: Mapping[str, int] | None = None,
) -> tf.data.Dataset:
    """End both with end-of-sequence, targets cut to their length, as in `p5jax train`.

    Inputs that are longer than theirs end the iteration with an error: without its end a prompt
    asks for something else.
    """
    limit = (sequence_length or {}).get("inputs")

    def whole(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        fits = tf.debugging.assert_less(
            tf.size(example["inputs"]),
            limit,
            f"a prompt is longer than its {limit} tokens: register these tasks with"
            f" config=FamilyConfig(max_source={limit}), which shortens prompts but for their end",
        )
        with tf.control_dependencies([fits]):
            return example | {"inputs": tf.identity(example["inputs"])}

    if limit is not None:
        dataset = dataset.map(whole, num_parallel_calls=tf.data.AUTOTUNE)
    return seqio.preprocessors.append_eos_after_trim(dataset, output_features, sequence_length)
