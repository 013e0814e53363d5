"""Results kept in a folder: whether it can be written is seen before the work."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from p5jax.core.errors import Unwritten, UserError
from p5jax.core.files import claim_replacing
from p5jax.core.lock import hold, release, released
from p5jax.evaluation.results import FamilyResult, previous_results, write_results
from p5jax.parallel import distributed

_WAIT = 30.0  # seconds; another evaluation's results are read and written in less


def reserve(folder: Path, header: dict[str, Any]) -> None:
    """See that results can be written to a folder; every process must call it.

    UserError when they cannot, or when what they are merged with cannot be read. Others may
    evaluate to the folder at the same time: their results are merged too.
    """
    distributed.from_primary(lambda: _try(folder, header))


def _try(folder: Path, header: dict[str, Any]) -> None:
    with _alone(folder), released():
        claim_replacing(folder)
        previous_results(folder, header)


def keep_results(folder: Path, results: Sequence[FamilyResult], header: dict[str, Any]) -> None:
    """Write results as `write_results`; every process must call it.

    Unwritten, with the results, when it is not possible.
    """

    def write() -> None:
        with _alone(folder):
            write_results(folder, results, header)

    try:
        distributed.from_primary(write)
    except (OSError, UserError) as error:
        raise Unwritten(error, results) from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Within it no other process reads and writes results beside a folder; it waits for its end.

    The folder above is locked, which stays, as the folder itself is replaced.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + _WAIT
    while True:
        try:
            hold(folder.parent, folder)
            break
        except UserError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
    try:
        yield
    finally:
        release(folder.parent)
