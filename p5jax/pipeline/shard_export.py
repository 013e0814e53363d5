"""A run's training samples, tokenised once and written to shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
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
Parts = Mapping[Path, range]  # which samples each file holds


@released()
def export_shards(
    rendered: RenderedSamples,
    out: str | os.PathLike[str],
    *,
    epochs: int = EPOCHS,
    shards: int = SHARDS,
    write: Callable[[Parts], None] | None = None,
    report: Report = print_progress,
) -> None:
    """Write the first `epochs` epochs of a training stream to `shards` files.

    An epoch is as many samples as the mixture's families have training examples: every example
    once, where no rates are given. Files that are there are not written again. The others are
    written by `write`, or else here: threads and workers of the pipeline's configuration make the
    samples. Interrupted by a signal, after which the same call resumes. UserError when `out` holds
    anything else.
    """
    samples = epochs * rendered.epoch
    if epochs < 1 or not 1 <= shards <= samples:
        raise UserError(
            f"export-shards: found {epochs} epochs in {shards} shards, expected at least 1 of each"
            f" and at most {rendered.epoch} shards an epoch"
        )
    out, interruption = Path(out), Interruption()
    manifest = {
        "stream": rendered.identity(),
        "epochs": epochs,
        "draws": samples,
        "shards": shards,
        "dtype": _dtype(rendered).str,
    }
    ends = [number * samples // shards for number in range(shards + 1)]
    parts = {
        out / f"draws-{number:05d}-of-{shards:05d}.array_record": range(*ends[number : number + 2])
        for number in range(shards)
    }
    if SHARD_FOLDER.claim(out, manifest) is None:
        SHARD_FOLDER.write(out, manifest)
    waiting = {file: part for file, part in parts.items() if not file.is_file()}
    if write is not None:
        write(waiting)
    else:
        done = samples - sum(map(len, waiting.values()))
        progress = Progress("export", "prompts", samples, report, done)
        with interruption:
            _write_here(rendered, waiting, interruption, progress)
    files = {
        file.name: {"draws": len(part), "bytes": file.stat().st_size}
        for file, part in parts.items()
    }
    SHARD_FOLDER.write(out, manifest | {"files": files})
    size = sum(file["bytes"] for file in files.values())
    report(f"{out}: {samples} prompts in {shards} files, {size / 2**20:.1f} MiB")
    if interruption.signal is not None:
        raise Interrupted(interruption.signal, "finished all files, then stopped")


def write_part(rendered: RenderedSamples, file: Path, part: range) -> None:
    """Write the samples of one file."""
    write_shard(file, map(partial(_records, rendered), _spans(part)))


def _write_here(
    rendered: RenderedSamples, parts: Parts, interruption: Interruption, progress: Progress
) -> None:
    """Write file after file, the samples made ahead, until a signal comes."""
    spans = [span for part in parts.values() for span in _spans(part)]
    # Encoded where they are made: workers would send each array in a shared memory of its own.
    made = grain.MapDataset.source(spans).map(partial(_records, rendered))
    chunks = worked_ahead(made, rendered.config)
    try:
        for file, part in parts.items():
            of_part = islice(chunks, len(_spans(part)))
            write_shard(file, _watched(of_part, interruption, progress))
    finally:
        chunks.close()


def _spans(part: range) -> list[range]:
    """Cut a range of samples into those that are made at a time."""
    return [part[start : start + _CHUNK] for start in range(0, len(part), _CHUNK)]


def _records(rendered: RenderedSamples, span: range) -> list[bytes]:
    dtype = _dtype(rendered)
    return [encode(tokens, dtype) for tokens in rendered(span.start, len(span))]


def _dtype(rendered: RenderedSamples) -> np.dtype:
    return record_dtype(rendered.vocabulary.size, rendered.config.source_lengths[-1])


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
