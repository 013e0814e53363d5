"""A table with named columns, whatever its format: what the readers of formats open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

# The file and the number of a row, and its cells: None, numbers, texts or lists.
TableRow = tuple[Path, int, Sequence[object]]


@dataclass(frozen=True)
class TablePart:
    """Some rows of a file.

    rows: what returns them. columns: what returns the same cells as columns, where these can be
    had at once, else None; the rows are then numbered from `first` on. Any thread may call it.
    """

    path: Path
    first: int
    rows: Callable[[], Iterator[TableRow]]
    columns: Callable[[], Sequence[pa.Array] | None] = lambda: None


@dataclass(frozen=True)
class TableFile:
    """An opened table.

    path: what messages call it. form: its format, "CSV". names: those of its columns. parts: from
    some of these to the rows, part by part, to be called once; a row's number is that of the line
    where there are lines, else that of the row, from 1.
    """

    path: Path
    form: str
    names: list[str]
    parts: Callable[[Sequence[str]], Iterator[TablePart]]

    def read(self, columns: Sequence[str]) -> Iterator[TableRow]:
        """Yield the rows, to be called once and instead of `parts`."""
        for part in self.parts(columns):
            yield from part.rows()
