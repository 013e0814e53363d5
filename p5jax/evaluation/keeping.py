"""Results kept in a folder: it is checked and locked before the work, and written after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from p5jax.core.errors import Unwritten, UserError
from p5jax.core.files import claim_replacing
from p5jax.evaluation.results import FamilyResult, write_results
from p5jax.parallel import distributed


def reserve(folder: Path) -> None:
    """See that results can be written to a folder; every process must call it.

    UserError when they cannot, or when another process evaluates to it.
    """
    distributed.from_primary(lambda: claim_replacing(folder))


def keep_results(folder: Path, results: Sequence[FamilyResult], header: dict[str, Any]) -> None:
    """Write results as `write_results`; every process must call it.

    Unwritten, with the results, when it is not possible.
    """
    try:
        distributed.from_primary(lambda: write_results(folder, results, header))
    except (OSError, UserError) as error:
        raise Unwritten(error, results) from error
