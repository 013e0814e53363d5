"""What commands print: results on the standard output, notes on the standard error stream."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from p5jax.core.errors import Unwritten
from p5jax.core.printing import plain

if TYPE_CHECKING:
    import pyarrow as pa

    from p5jax.data.dataset import Dataset
    from p5jax.evaluation.results import FamilyResult
    from p5jax.triggers.evaluation import PromptComparison

Value = TypeVar("Value")
_UNESCAPED = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # by JSON, unlike ESC


def show(text: object) -> None:
    """Print text on the standard output, without what would command the terminal."""
    print(plain(str(text)))


def note(text: str) -> None:
    """Print a note on the standard error stream."""
    print(f"note: {plain(text)}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Print a value as indented JSON, text as it is where the output can show it."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=1)
    print(_UNESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def print_text(text: str) -> None:
    """Print text, in the first process alone."""
    from p5jax.parallel import distributed

    if distributed.is_primary():
        show(text)


def print_computed(compute: Callable[[], Value], show: Callable[[Value], None]) -> Value:
    """Show what is computed and return it; also, before the error, what could not be written."""
    try:
        value = compute()
    except Unwritten as error:
        show(error.value)
        raise
    show(value)
    return value


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
    show(format_results(results))


def print_cold_rows(table: pa.Table, reference: str) -> None:
    """Print the results of cold users as a table, in the first process alone."""
    from p5jax.ppr.cold.results import format_cold_rows, summarise

    print_text(format_cold_rows(summarise(table, reference)))


def print_comparison(rows: Sequence[PromptComparison], leaky: bool) -> None:
    """Print prompts beside each other as a table, in the first process alone."""
    from p5jax.triggers.evaluation import format_prompt_comparison

    print_leaky(leaky)
    print_text(format_prompt_comparison(rows))


def print_leaky(leaky: bool) -> None:
    """Print, where it is so, that no figure below is a fair one."""
    from p5jax.evaluation.results import LEAKY_NOTE

    if leaky:
        print_text(LEAKY_NOTE)


def warn_of_leak(dataset: Dataset) -> None:
    """Note, where it is so, that recommendations are made with leaky item ids."""
    if dataset.leaky:
        note("item ids are `released`: leaky, no fair recommendations")
