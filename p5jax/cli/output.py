"""What commands print: results on the standard output, notes on the standard error stream."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from p5jax.data.dataset import Dataset
    from p5jax.evaluation.results import FamilyResult


def print_json(value: Any) -> None:
    """Print a value as indented JSON, text as it is."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_text(text: str) -> None:
    """Print text, in the first process alone."""
    from p5jax.parallel import distributed

    if distributed.is_primary():
        print(text)


def print_results(results: Sequence[FamilyResult], leaky: bool, as_json: bool) -> None:
    """Print an evaluation as tables or as JSON, in the first process alone."""
    from p5jax.evaluation.results import format_results, summary
    from p5jax.parallel import distributed

    if not distributed.is_primary():
        return
    if as_json:
        print_json({"leaky_item_ids": leaky, "results": summary(results)})
        return
    print_leaky(leaky)
    print(format_results(results))


def print_cold_rows(table: pa.Table, reference: str) -> None:
    """Print the results of cold users as a table, in the first process alone."""
    from p5jax.ppr.cold.results import format_cold_rows, summarise

    print_text(format_cold_rows(summarise(table, reference)))


def print_leaky(leaky: bool) -> None:
    """Print, where it is so, that no figure below is a fair one."""
    from p5jax.evaluation.results import LEAKY_NOTE

    if leaky:
        print_text(LEAKY_NOTE)


def warn_of_leak(dataset: Dataset) -> None:
    """Note, where it is so, that recommendations are made with leaky item ids."""
    if dataset.leaky:
        print("note: item ids are `released`: leaky, no fair recommendations", file=sys.stderr)
