"""Windows of the training stream: their samples, tokenised and cut into global batches."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from p5jax.pipeline.batching import (
    Batch,
    Tokens,
    first_fit,
    packed_batch,
    padded_batch,
    smallest_fit,
)
from p5jax.pipeline.config import PipelineConfig, resolved_batching
from p5jax.pipeline.mixture import permute
from p5jax.pipeline.samples import RenderedSamples, Samples
from p5jax.pipeline.shards import open_shards
from p5jax.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from p5jax.prompts.families import Family

_MULTIPLE = 8  # "longest" pads to a multiple of this
_TARGET_MULTIPLES = (1, 2, 4, 8)  # of target_length that a packed row may hold
_TARGET_COST = 2  # a target position costs about two source positions: cross-attention and logits


class Windows:
    """Makes the global batches of any window; what Grain maps over window numbers.

    users: whether batches, which are not packed, have the user of each row, int32 "users" [B].
    """

    def __init__(
        self,
        families: Mapping[str, Family],
        vocabulary: Vocabulary,
        config: PipelineConfig,
        users: bool = False,
    ):
        rendered = RenderedSamples(families, vocabulary, config, users)
        self.mixture = rendered.mixture
        self.vocabulary = vocabulary
        self.config = config
        self.batching = resolved_batching(config)
        self.samples: Samples = open_shards(config.shards, rendered) if config.shards else rendered
        self.rows, self.packed_target = config.batch_size, 0
        if self.batching == "packed":
            self.rows, self.packed_target = self._measured()

    def identity(self) -> dict[str, Any]:
        """Return, JSON-able, what decides the stream: a state is only good for the same."""
        config = self.config
        return {
            "batching": self.batching,
            "batch_size": config.batch_size,
            "window": config.window_batches,
            "rows": self.rows,
            "source_lengths": list(config.source_lengths),
            "target_lengths": list(config.target_lengths),
            "seed": config.seed,
            "families": {
                name: [size, share]
                for name, size, share in zip(
                    self.mixture.names, self.mixture.sizes, self.mixture.shares, strict=True
                )
            },
            "vocabulary": self.vocabulary.fingerprint,
            "period": self.samples.period,
        }

    def __call__(self, window: int) -> list[Batch]:
        """Return the global batches of a window, in order."""
        tokens = self._tokens(window)
        if self.batching == "packed":
            return self._packed(tokens, window)
        if self.batching == "buckets":
            return self._buckets(tokens, window)
        return self._longest(tokens)

    def _tokens(self, window: int) -> list[Tokens]:
        """Return a window's examples."""
        count = self.config.window_batches * self.config.batch_size
        return self.samples(window * count, count)

    def _measured(self) -> tuple[int, int]:
        """Choose a packed batch's rows and target length by packing the first window.

        The target length is the multiple of target_length that costs least; the rows are those
        that batch_size examples take, to three binary digits, so that devices divide them.
        """
        config, tokens = self.config, self._tokens(0)
        source = config.source_lengths[-1]
        options = []
        for multiple in _TARGET_MULTIPLES:
            target = multiple * config.target_length
            rows = len(first_fit(tokens, source, target))
            options.append((rows * (source + _TARGET_COST * target), rows, target))
        _, rows, target = min(options)
        exact = rows / config.window_batches
        step = 2 ** max(0, math.floor(math.log2(exact)) - 2) if exact >= 1 else 1
        return max(1, round(exact / step) * step), target

    def _longest(self, tokens: list[Tokens]) -> list[Batch]:
        """Batch in the stream's order, each padded to its longest source and target."""
        config = self.config
        batches = []
        for start in range(0, len(tokens), config.batch_size):
            chunk = tokens[start : start + config.batch_size]
            longest = max(len(t.source) for t in chunk), max(len(t.target) for t in chunk)
            source, target = (-(-length // _MULTIPLE) * _MULTIPLE for length in longest)
            source = min(source, config.source_lengths[-1])
            target = min(target, config.target_length)
            batches.append(padded_batch(chunk, source, target, config.batch_size))
        return batches

    def _buckets(self, tokens: list[Tokens], window: int) -> list[Batch]:
        """Sort by target bucket and source length, cut into batches, shuffle the batches.

        Sources ascend under the shortest targets, descend under the next, and so on, so that a
        batch which holds two kinds holds sources of about one length.
        """
        config = self.config

        def place(tokens: Tokens) -> tuple[int, int]:
            bucket = bisect_left(config.target_lengths, len(tokens.target))
            return bucket, -len(tokens.source) if bucket % 2 else len(tokens.source)

        order = sorted(tokens, key=place)
        batches = []
        count = config.window_batches
        for number in permute(np.arange(count), count, config.seed, "order", window):
            chunk = order[number * config.batch_size : (number + 1) * config.batch_size]
            source = smallest_fit(max(len(t.source) for t in chunk), config.source_lengths)
            target = smallest_fit(max(len(t.target) for t in chunk), config.target_lengths)
            batches.append(padded_batch(chunk, source, target, config.batch_size))
        return batches

    def _packed(self, tokens: list[Tokens], window: int) -> list[Batch]:
        """Pack into rows and deal the rows, shuffled, evenly over as few batches as hold them."""
        rows, source, target = self.rows, self.config.source_lengths[-1], self.packed_target
        packed = [[tokens[i] for i in row] for row in first_fit(tokens, source, target)]
        order = permute(np.arange(len(packed)), len(packed), self.config.seed, "order", window)
        count = -(-len(packed) // rows)
        return [
            packed_batch([packed[i] for i in order[start::count]], source, target, rows)
            for start in range(count)
        ]
