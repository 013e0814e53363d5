"""Parts of a work, each done by a worker of Apache Beam; nothing else imports Beam."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from traceback import format_exception_only
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.shared import Shared

from p5jax.core.errors import UserError

Opened = Callable[[], Callable[[Any], None]]
_MINE = re.compile(
    r"^p5jax\.core\.errors\.UserError: (.*?)(?: \[while running '.*)?$", re.MULTILINE
)


def on_beam(parts: Sequence[Any], opened: Opened, options: Sequence[str]) -> None:
    """Do each part on the runner that Beam's options name, DirectRunner where they name none.

    opened: makes what does a part, once in each worker process; it and the parts are pickled. A
    part may be done more than once, also at the same time, and must come to the same.
    UserError that a worker raises is raised here.
    """
    for word in options:
        if not word.startswith("--"):
            raise UserError(f"-- {word}: found no option of Beam, expected --NAME=VALUE")
    try:
        with beam.Pipeline(options=PipelineOptions([*options])) as pipeline:
            listed = pipeline | "parts" >> beam.Create([*parts]) | beam.Reshuffle()
            listed | "do" >> beam.ParDo(_Do(opened))
    except Exception as error:  # of a worker; other processes' are text in another error
        found = _MINE.findall("".join(format_exception_only(error)))
        if found:
            raise UserError(found[-1]) from error
        raise


class _Do(beam.DoFn):
    def __init__(self, opened: Opened) -> None:
        self._opened, self._shared = opened, Shared()

    def setup(self) -> None:
        self._do = self._shared.acquire(self._opened)  # threads of a process share it

    def process(self, part: Any) -> Iterator[Any]:
        self._do(part)
        return iter(())
