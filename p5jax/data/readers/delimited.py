"""CSV and its kin: cells between commas, semicolons, bars, tabs or "::"."""

from __future__ import annotations

import codecs
import csv
import functools
import itertools
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from p5jax.core.errors import UserError, shown
from p5jax.data.readers.lines import BLOCK, NEWLINE, Block, LineErrors, read_blocks, with_progress
from p5jax.data.readers.table_file import TableFile, TablePart, TableRow

FORMS = {
    "::": "text separated by ::",
    "\t": "text separated by tabs",
    ",": "CSV",
    ";": "CSV separated by semicolons",
    "|": "text separated by bars",
}
SURE = ("::", "\t")  # what is in a header only where it separates
ATOMIC = re.compile(r"(.+):(?:token|token_seq|float|float_seq)")  # a column of RecBole's
QUOTE = b'"'
STAND_IN = b"\x01"  # for a delimiter of several characters
_QUOTED = re.compile(r'"[^"]*"')
_Line = tuple[int, str]


class _Lines:
    """Numbered lines of blocks, some of which may be put back."""

    def __init__(self, blocks: Iterable[Block], path: Path, errors: LineErrors) -> None:
        self.lines = (line for block in blocks for line in block.lines(path, errors, blank=True))
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
    blocks = with_progress(read_blocks(path, what), path.name, "KiB", BLOCK >> 10)
    start = next(blocks, Block(1, b""))
    lines = _Lines(itertools.chain([start], blocks), path, errors)
    number, first = next((each for each in lines if each[1].strip()), (1, ""))
    delimiter = _delimiter(first)
    lines.back.append((number, first))
    if header and names is None:
        number, cells = next(_rows(path, lines, delimiter, 0, errors), (1, []))
        names = _named(path, number, cells)
    else:
        number, given, cells = number - 1, list(names or ()), first.split(delimiter)
        names = given + [str(n) for n in range(len(given) + 1, len(cells) + 1)]
    file = _Delimited(path, delimiter, names, errors)

    def parts(columns: Sequence[str]) -> Iterator[TablePart]:
        if first.count('"') % 2 or number > start.data.count(NEWLINE):
            yield file.by_rows(lines, columns)  # the header may be of several lines, or far below
        else:
            yield from file.parts(itertools.chain([start.after(number)], blocks), columns)

    return TableFile(path, FORMS[delimiter], names, parts)


@dataclass(frozen=True)
class _Delimited:
    """An opened file, and how its cells are written."""

    path: Path
    delimiter: str
    names: Sequence[str]
    errors: LineErrors

    def parts(self, blocks: Iterator[Block], columns: Sequence[str]) -> Iterator[TablePart]:
        """Yield the rows block by block, up to one with quotes, within which a block may end."""
        for block in blocks:
            if QUOTE in block.data:
                rest = _Lines(itertools.chain([block], blocks), self.path, self.errors)
                yield self.by_rows(rest, columns)
                return
            alone = self.by_rows(_Lines([block], self.path, self.errors), columns)
            found = functools.partial(self.columns_of, block, columns)
            yield replace(alone, first=block.first, columns=found)

    def by_rows(self, lines: _Lines, columns: Sequence[str]) -> TablePart:
        """Return what can be had row by row alone."""

        def rows() -> Iterator[TableRow]:
            positions = [self.names.index(column) for column in columns]
            width = len(self.names)
            for number, cells in _rows(self.path, lines, self.delimiter, width, self.errors):
                yield self.path, number, [cells[position] for position in positions]

        return TablePart(self.path, 0, rows)

    def columns_of(self, block: Block, columns: Sequence[str]) -> list[pa.Array] | None:
        """Return the columns of a block without quotes, or None where a line is unusual."""
        data, delimiter = block.data, self.delimiter.encode()
        if codecs.BOM_UTF8 in data or (len(delimiter) > 1 and STAND_IN in data):
            return None
        if len(delimiter) > 1:
            data, delimiter = data.replace(delimiter, STAND_IN), STAND_IN
        names = [*map(str, range(len(self.names)))]
        asked = [str(self.names.index(column)) for column in columns]
        try:
            table = pa.csv.read_csv(
                pa.BufferReader(data),
                pa.csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
                pa.csv.ParseOptions(
                    delimiter=delimiter.decode(), quote_char=False, ignore_empty_lines=False
                ),
                pa.csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    include_columns=[*dict.fromkeys(asked)],
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid:
            return None
        return [table[name].combine_chunks() for name in asked]


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
