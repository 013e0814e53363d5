"""Shards of training samples, written by the workers of a Beam pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from uuid import uuid4

from p5jax.core.beam import on_beam
from p5jax.core.files import remove_left_overs
from p5jax.core.folder import refuse_difference
from p5jax.pipeline.samples import RenderedSamples
from p5jax.pipeline.shard_export import Parts, write_part
from p5jax.pipeline.shards import SHARD_FOLDER

Opened = Callable[[], RenderedSamples]


def write_on_beam(opened: Opened, options: Sequence[str], parts: Parts) -> None:
    """Write files of samples, each by a worker, which must see the folders that it is about.

    opened: makes the samples, in a worker. options: Beam's, see core.beam.on_beam.
    """
    named = [(str(file.absolute()), part) for file, part in parts.items()]
    on_beam(named, partial(_writer, opened), options)
    for folder in {file.parent for file in parts}:
        remove_left_overs(folder)  # of workers that were killed


def _writer(opened: Opened) -> Callable[[tuple[str, range]], None]:
    return partial(_write, opened())


def _write(rendered: RenderedSamples, named: tuple[str, range]) -> None:
    """Write a file beside under a name of this attempt alone, then rename it.

    Of two attempts at once both succeed, and the file is whole at every moment.
    """
    file, part = Path(named[0]), named[1]
    manifest = SHARD_FOLDER.read(file.parent)
    refuse_difference(file.parent, manifest["stream"], rendered.identity())
    attempt = file.with_name(f".{file.name}.{uuid4().hex}.partial")
    write_part(rendered, attempt, part)
    attempt.replace(file)
