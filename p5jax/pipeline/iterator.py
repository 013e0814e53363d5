"""The training input: a mixture of families, tokenised and batched on Grain.

Everything is a function of the seed and of a position in the stream. Sample i is a (family,
epoch, index); window w is the samples [w, w + 1) * window * batch_size; a batch is a position in a
window. The state of an iterator is therefore two numbers, exact under any number of threads,
worker processes or hosts.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grain
import numpy as np
from absl import flags

from p5jax.core.errors import UserError
from p5jax.pipeline.batching import Batch, Tokens, padded_batch, smallest_fit
from p5jax.pipeline.config import PipelineConfig
from p5jax.pipeline.epochs import EpochIterator
from p5jax.pipeline.samples import encoded_source, tokenise
from p5jax.pipeline.windows import Windows
from p5jax.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from p5jax.prompts.families import Example, Family

__all__ = [
    "BatchIterator",
    "PipelineConfig",
    "eval_batches",
    "supervised_batches",
    "train_iterator",
]

_ENDLESS = 1 << 40  # windows


class BatchIterator(EpochIterator):
    """Training batches; an epoch of the iterator is a window of the stream."""

    def __init__(self, windows: Windows, process_index: int, process_count: int):
        super().__init__(windows.rows, process_index, process_count)
        self._windows = windows

    def epoch(self, number: int) -> Sequence[Batch]:
        """Return the global batches of a window."""
        return self._windows(number)

    def identity(self) -> dict[str, Any]:
        """Return what decides the stream."""
        return self._windows.identity()

    def epochs(self, first: int) -> Iterator[Sequence[Batch]]:
        """Yield the windows from `first` on, made ahead by Grain."""
        windows = grain.MapDataset.range(first, _ENDLESS).map(self._windows)
        ahead: Iterator[Sequence[Batch]] = worked_ahead(windows, self._windows.config)
        return ahead


def worked_ahead(dataset: grain.MapDataset, config: PipelineConfig) -> grain.DatasetIterator:
    """Iterate over a dataset in order, its elements made ahead in the threads and processes of
    the configuration."""
    options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=2)
    elements = dataset.to_iter_dataset(options)
    if config.workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags
            flags.FLAGS.mark_as_parsed()
        workers = grain.MultiprocessingOptions(num_workers=config.workers)
        elements = elements.mp_prefetch(workers, _leave_interrupts)
    return iter(elements)


def _leave_interrupts(worker: int, workers: int) -> None:
    """In a worker, leave Ctrl-C, which a terminal sends to all processes, to the main one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def train_iterator(
    families: Mapping[str, Family],
    vocabulary: Vocabulary,
    config: PipelineConfig,
    process_index: int = 0,
    process_count: int = 1,
) -> BatchIterator:
    """Iterate over training batches without end.

    A batch is a dict of t5x's arrays [B, S] and [B, T]: int32 tokens (segment ids and positions
    when packed) and float32 decoder_loss_weights. Every process forms the same global batches and
    keeps a contiguous share of B / process_count rows. UserError when the rows do not divide.
    """
    windows = Windows(families, vocabulary, config)
    if windows.rows % process_count:
        raise UserError(
            f"batch_size: found {config.batch_size}, which makes {windows.rows} rows when"
            f" {windows.batching}; expected rows that divide over {process_count} processes"
        )
    return BatchIterator(windows, process_index, process_count)


def supervised_batches(
    examples: Iterable[Example], vocabulary: Vocabulary, config: PipelineConfig
) -> Iterator[Batch]:
    """Yield every example once in batches of train_iterator's padded shapes, for a held-out loss;
    rows that fill a last batch have weight zero."""
    pending: dict[int, list[Tokens]] = {length: [] for length in config.source_lengths}
    for example in examples:
        tokens = tokenise(example, vocabulary, config)
        length = smallest_fit(len(tokens.source), config.source_lengths)
        pending[length].append(tokens)
        if len(pending[length]) == config.batch_size:
            yield padded_batch(pending[length], length, config.target_length, config.batch_size)
            pending[length] = []
    for length, rest in pending.items():
        if rest:
            yield padded_batch(rest, length, config.target_length, config.batch_size)


def eval_batches(
    examples: Iterable[Example],
    vocabulary: Vocabulary,
    batch_size: int,
    source_lengths: Sequence[int] = (64, 128, 256, 512),
) -> Iterator[tuple[list[Example], np.ndarray]]:
    """Yield (examples, encoder_input_tokens int32 [batch_size, S]) with S from `source_lengths`.

    Every example comes once, grouped by length and so not in order; a last batch of a length has
    fewer examples than rows, the other rows being padding.
    """
    pending: dict[int, list[tuple[Example, np.ndarray]]] = {s: [] for s in source_lengths}
    for example in examples:
        source = encoded_source(example, vocabulary, source_lengths[-1])
        length = smallest_fit(len(source), source_lengths)
        pending[length].append((example, source))
        if len(pending[length]) == batch_size:
            yield _eval_batch(pending[length], batch_size, length)
            pending[length] = []
    for length, rest in pending.items():
        if rest:
            yield _eval_batch(rest, batch_size, length)


def _eval_batch(
    pairs: list[tuple[Example, np.ndarray]], rows: int, length: int
) -> tuple[list[Example], np.ndarray]:
    tokens = np.zeros((rows, length), np.int32)
    for row, (_, source) in enumerate(pairs):
        tokens[row, : len(source)] = source
    return [example for example, _ in pairs], tokens
