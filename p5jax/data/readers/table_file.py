"""A table with named columns, whatever its format: what the readers of formats open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# The file and the number of a row, and its cells: None, numbers, texts or lists.
TableRow = tuple[Path, int, Sequence[object]]


@dataclass(frozen=True)
class TableFile:
    """An opened table.

    path: what messages call it. form: its format, "CSV". names: those of its columns. read: from
    some of these to the rows, to be called once; a row's number is that of the line where there are
    lines, else that of the row, from 1.
    """

    path: Path
    form: str
    names: list[str]
    read: Callable[[Sequence[str]], Iterator[TableRow]]
