"""The source of a task: its examples' numbers, which rendering turns into text."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from p5jax.core.errors import UserError, nearest
from p5jax.pipeline.mixture import permute
from p5jax.tasks.calls import numpy_function

_SHARD = 4096  # examples of a shard that one worker of an offline caching job renders
_BLOCK = 1024  # numbers that are permuted at a time


class NumberSource(seqio.DataSource):
    """{"split", "epoch", "index"} of a task's examples; SeqIO shards them before any is rendered.

    Element n of a split is epoch n // size, index n % size: the training split has `epochs`
    epochs, the others one. Shuffled, each epoch is in an order of its own, whole, after the
    epoch before. Shard i of k holds the elements i, i + k, i + 2k, ...
    """

    def __init__(self, name: str, sizes: Mapping[str, int], epochs: int):
        self.name = name
        self.sizes = dict(sizes)
        counts = self.sizes | {"train": epochs * sizes["train"]} if "train" in sizes else self.sizes
        super().__init__(tuple(sizes), counts, performs_internal_shuffling=True)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def num_input_examples(self, split: str) -> int:
        """Return a split's examples over all epochs; UserError when the task has no such split."""
        if split not in self.sizes:
            raise UserError(
                f"{self.name}: found no split {split!r}, expected one of"
                f" {', '.join(self.sizes)}{nearest(split, self.sizes)}"
            )
        return int(super().num_input_examples(split))

    def list_shards(self, split: str) -> list[str]:
        count = -(-self.num_input_examples(split) // _SHARD)
        return [f"{self.name}-{split}-{n:05d}-of-{count:05d}" for n in range(count)]

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: object,
    ) -> tf.data.Dataset:
        """Return the numbers, int64 scalars beside the split's name; shuffled without a seed, in
        a new random order. UserError when the task has no such split."""
        count = self.num_input_examples(split)
        shard = shard_info or seqio.ShardInfo(0, 1)
        order = None
        if shuffle:
            order = secrets.randbits(63) if seed is None else int(seed)
        size = self.sizes[split]

        def place(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            epochs, indices = np.divmod(numbers, size)
            if order is not None:
                for epoch in np.unique(epochs).tolist():
                    here = epochs == epoch
                    indices[here] = permute(indices[here], size, order, self.name, epoch)
            return epochs, indices

        def fields(numbers: tf.Tensor) -> dict[str, tf.Tensor]:
            pair = numpy_function(place, [numbers], [tf.int64, tf.int64])
            epochs, indices = (tf.ensure_shape(each, [None]) for each in pair)
            return {"split": tf.fill(tf.shape(indices), split), "epoch": epochs, "index": indices}

        numbers = tf.data.Dataset.range(shard.index, count, shard.num_shards)
        return numbers.batch(_BLOCK).map(fields).unbatch()
