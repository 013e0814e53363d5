"""Files that workers of Apache Beam write, each a part of a work; nothing else imports Beam."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from traceback import format_exception_only
from typing import Any
from uuid import uuid4

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.shared import Shared

from p5jax.core.errors import UserError
from p5jax.core.files import remove_left_overs

Write = Callable[[Path, range], None]
_MINE = re.compile(
    r"^p5jax\.core\.errors\.UserError: (.*?)(?: \[while running '.*)?$", re.MULTILINE
)


def write_on_beam(
    opened: Callable[[], Write], options: Sequence[str], parts: Mapping[Path, range]
) -> None:
    """Write each file, of its part, on the runner that Beam's options name, or DirectRunner.

    opened: makes what writes a file, once in each worker process; it is pickled. The workers must
    see the files' folder. A runner may have a part done twice, also at the same time: each attempt
    writes a file of its own beside, which is renamed, and of whole files the last stays.
    UserError that a worker raises is raised here.
    """
    for word in options:
        if not word.startswith("--"):
            raise UserError(f"-- {word}: found no option of Beam, expected --NAME=VALUE")
    named = [(str(file.absolute()), part) for file, part in parts.items()]
    try:
        with beam.Pipeline(options=PipelineOptions([*options])) as pipeline:
            listed = pipeline | "parts" >> beam.Create(named) | beam.Reshuffle()
            listed | "write" >> beam.ParDo(_Write(opened))
    except Exception as error:  # of a worker; other processes' are text in another error
        found = _MINE.findall("".join(format_exception_only(error)))
        if found:
            raise UserError(found[-1]) from error
        raise
    for folder in {file.parent for file in parts}:
        remove_left_overs(folder)  # of workers that were killed


class _Write(beam.DoFn):
    def __init__(self, opened: Callable[[], Write]) -> None:
        self._opened, self._shared = opened, Shared()

    def setup(self) -> None:
        self._write = self._shared.acquire(self._opened)  # threads of a process share it

    def process(self, named: tuple[str, range]) -> Iterator[Any]:
        file, part = Path(named[0]), named[1]
        attempt = file.with_name(f".{file.name}.{uuid4().hex}.partial")
        self._write(attempt, part)
        attempt.replace(file)
        return iter(())
