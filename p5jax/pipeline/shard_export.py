"""A run's training samples, tokenised once and written to shards."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import grain
import numpy as np

from p5jax.core.errors import Interrupted, UserError
from p5jax.core.interruption import Interruption
from p5jax.core.lock import released
from p5jax.core.progress import Progress, Report, print_progress
from p5jax.pipeline.iterator import worked_ahead
from p5jax.pipeline.samples import RenderedSamples
from p5jax.pipeline.shards import SHARD_FOLDER, encode, record_dtype, write_shard

EPOCHS, SHARDS = 1, 16  # exported, unless others are asked for
_CHUNK = 1024  # samples that a thread or process makes at a time


@released()
def export_shards(
    rendered: RenderedSamples,
    out: str | os.PathLike[str],
    *,
    epochs: int = EPOCHS,
    shards: int = SHARDS,
    report: Report = print_progress,
) -> None:
    """Write the first `epochs` epochs of a training stream to `shards` files.

    An epoch is as many samples as the mixture's families have training examples: every example
    once, where no rates are given. Threads and workers of the pipeline's configuration make the
    samples. Files that are there are not written again. Interrupted by a signal, after which the
    same call resumes. UserError when `out` holds anything else.
    """
    samples = epochs * rendered.epoch
    if epochs < 1 or not 1 <= shards <= samples:
        raise UserError(
            f"export-shards: found {epochs} epochs in {shards} shards, expected at least 1 of each"
            f" and at most {rendered.epoch} shards an epoch"
        )
    pipeline, out = rendered.config, Path(out)
    dtype = record_dtype(rendered.vocabulary.size, pipeline.source_lengths[-1])
    manifest = {
        "stream": rendered.identity(),
        "epochs": epochs,
        "draws": samples,
        "shards": shards,
        "dtype": dtype.str,
    }
    ends = [number * samples // shards for number in range(shards + 1)]
    parts = {
        out / f"draws-{number:05d}-of-{shards:05d}.array_record": range(*ends[number : number + 2])
        for number in range(shards)
    }
    if SHARD_FOLDER.claim(out, manifest) is None:
        SHARD_FOLDER.write(out, manifest)
    waiting = {file: part for file, part in parts.items() if not file.is_file()}
    done = samples - sum(map(len, waiting.values()))
    progress = Progress("export", "prompts", samples, report, done)
    with Interruption() as interruption:
        chunks = _chunks(rendered, waiting.values(), dtype)
        try:
            for file, part in waiting.items():
                of_part = islice(chunks, -(-len(part) // _CHUNK))
                write_shard(file, _watched(of_part, interruption, progress))
        finally:
            chunks.close()
    files = {
        file.name: {"draws": len(part), "bytes": file.stat().st_size}
        for file, part in parts.items()
    }
    SHARD_FOLDER.write(out, manifest | {"files": files})
    size = sum(file["bytes"] for file in files.values())
    report(f"{out}: {samples} prompts in {shards} files, {size / 2**20:.1f} MiB")
    if interruption.signal is not None:
        raise Interrupted(interruption.signal, "finished all files, then stopped")


def _chunks(
    rendered: RenderedSamples, parts: Iterable[range], dtype: np.dtype
) -> grain.DatasetIterator:
    """Iterate over the parts' records, at most _CHUNK at a time, made ahead."""
    spans = [
        (start, min(_CHUNK, part.stop - start))
        for part in parts
        for start in range(part.start, part.stop, _CHUNK)
    ]

    def records(span: tuple[int, int]) -> list[bytes]:
        # Encoded where they are made: workers would send each array in a shared memory of its own.
        return [encode(tokens, dtype) for tokens in rendered(*span)]

    return worked_ahead(grain.MapDataset.source(spans).map(records), rendered.config)


def _watched(
    chunks: Iterable[list[bytes]], interruption: Interruption, progress: Progress
) -> Iterator[list[bytes]]:
    """Pass chunks on, reporting how far they are, until a signal comes."""
    for chunk in chunks:
        if interruption.signal is not None:
            raise Interrupted(
                interruption.signal,
                "stopped; the same command resumes after the files that are written",
            )
        yield chunk
        progress.add(len(chunk))
