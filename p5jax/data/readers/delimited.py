"""CSV and its kin: cells between commas, semicolons, bars, tabs or "::"."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from p5jax.core.errors import UserError, shown
from p5jax.data.readers.lines import LineErrors, read_lines
from p5jax.data.readers.table_file import TableFile, TableRow

FORMS = {
    "::": "text separated by ::",
    "\t": "text separated by tabs",
    ",": "CSV",
    ";": "CSV separated by semicolons",
    "|": "text separated by bars",
}
SURE = ("::", "\t")  # what is in a header only where it separates
ATOMIC = re.compile(r"(.+):(?:token|token_seq|float|float_seq)")  # a column of RecBole's
_QUOTED = re.compile(r'"[^"]*"')
_Line = tuple[int, str]


class _Lines:
    """Numbered lines, some of which may be put back."""

    def __init__(self, lines: Iterator[_Line]) -> None:
        self.lines = lines
        self.back: deque[_Line] = deque()

    def __iter__(self) -> Iterator[_Line]:
        return self

    def __next__(self) -> _Line:
        return self.back.popleft() if self.back else next(self.lines)


def open_delimited(
    path: Path,
    errors: LineErrors,
    what: str,
    names: Sequence[str] | None = None,
    header: bool = True,
) -> TableFile:
    """Open a text of cells; its first line is the header, unless it has none.

    names: the columns of a file without a header; those that are left over count from 1, as all do
    where `header` is False. what: what messages say was expected. UserError when the file is
    missing, empty or no text, or a column has no name of its own.
    """
    lines = _Lines(read_lines(path, errors, what, blank=True))
    number, first = next((each for each in lines if each[1].strip()), (1, ""))
    delimiter = _delimiter(first)
    lines.back.append((number, first))
    if header and names is None:
        number, cells = next(_rows(path, lines, delimiter, 0, errors), (1, []))
        names = _named(path, number, cells)
    else:
        given, cells = list(names or ()), first.split(delimiter)
        names = given + [str(n) for n in range(len(given) + 1, len(cells) + 1)]
    width = len(names)

    def read(columns: Sequence[str]) -> Iterator[TableRow]:
        positions = [names.index(column) for column in columns]
        for number, cells in _rows(path, lines, delimiter, width, errors):
            yield path, number, [cells[position] for position in positions]

    return TableFile(path, FORMS[delimiter], names, read)


def _delimiter(line: str) -> str:
    """What separates the cells of a line; a comma where nothing does."""
    bare = _QUOTED.sub("", line)
    sure = next((each for each in SURE if each in bare), None)
    return sure or max((each for each in FORMS if each not in SURE), key=bare.count)


def _named(path: Path, number: int, cells: Sequence[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    atomic = [ATOMIC.fullmatch(name) for name in names]
    names = [match[1] for match in atomic if match] if all(atomic) else names
    repeated = next((name for name in names if name and names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{path}:{number}: found column {shown(repeated)} twice, expected it once")
    return names


def _rows(
    path: Path, lines: _Lines, delimiter: str, width: int, errors: LineErrors
) -> Iterator[tuple[int, list[str]]]:
    """Yield each row's first line and its cells; width 0 takes any number of cells."""
    for number, line in lines:
        if not line.strip():
            continue
        cells = line.split(delimiter)
        if '"' in line and len(delimiter) == 1:
            quoted = _quoted(line, lines, delimiter, width)
            if quoted is not None:
                cells = quoted
            elif delimiter != "\t":  # where a quote is a sign like any other
                errors.report(path, number, "found a quote without its other, expected CSV")
                continue
        if len(cells) == width or not width:
            yield number, cells
        else:
            errors.report(path, number, f"found {len(cells)} cells, expected {width}")


def _quoted(line: str, lines: _Lines, delimiter: str, width: int) -> list[str] | None:
    """Return the cells of a row with quotes, which may reach over the next lines; None if the
    quotes are not CSV's."""
    taken = []

    def following() -> Iterator[str]:
        yield f"{line}\n"
        for each in lines:
            taken.append(each)
            yield f"{each[1]}\n"

    try:
        cells = next(csv.reader(following(), delimiter=delimiter, strict=True))
    except csv.Error:
        cells = None
    if cells is None or (len(cells) != width and width and (taken or delimiter == "\t")):
        lines.back.extendleft(reversed(taken))
        return None
    return cells
