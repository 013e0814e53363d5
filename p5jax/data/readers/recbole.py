"""RecBole atomic files (.inter, .user, .item) -> RawData."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from p5jax.core.errors import UserError, shown
from p5jax.data.formats import RecboleOptions
from p5jax.data.readers.attributes import fill_items, user_attributes
from p5jax.data.readers.cells import BadLine, key_of, listed, rating_of, split_cells
from p5jax.data.readers.columns import time_column
from p5jax.data.readers.lines import LineErrors, read_lines
from p5jax.data.readers.raw import (
    ITEM_COLUMNS,
    RawData,
    RowCollector,
    describe_source,
    empty_columns,
)
from p5jax.data.time_split import POSITION

TYPES = ("token", "token_seq", "float", "float_seq")
USER, ITEM, RATING = "user_id", "item_id", "rating"


@dataclass(frozen=True)
class _Header:
    """The columns of an atomic file, in order, and their types."""

    names: list[str]
    types: list[str]

    def position(self, name: str | None) -> int | None:
        return self.names.index(name) if name is not None and name in self.names else None


def read(options: RecboleOptions) -> RawData:
    """Read the files that the options of `p5jax.prepare` name."""
    return read_recbole(Path(options.folder), skip_bad_lines=options.skip_bad_lines)


def read_recbole(folder: Path, *, name: str | None = None, skip_bad_lines: bool = False) -> RawData:
    """Read a folder of atomic files; NAME.inter must be there, NAME.user and NAME.item may be.

    NAME is the folder's name, or that of its only .inter file. Ratings and times are optional, each
    rating too: without a column of times the order of the lines counts. Columns of the .user file
    become profile attributes. The source's item numbering is taken from item keys that are all
    numbers. UserError names file and line of what is malformed, unless `skip_bad_lines` counts it.
    """
    inter = _inter_file(folder)
    errors = LineErrors(skip_bad_lines)
    rows = RowCollector()
    header, lines = _open(inter, errors, (USER, ITEM))
    time = time_column(header.names)
    line = _read_interactions(inter, header, lines, rows, time, errors)
    understood = {"columns": _columns(header, time)}
    if told := rows.read_float_keys():
        understood["keys"] = told
    sources = [inter]
    user_columns: dict[str, list[str | None]] = {}
    attributes = empty_columns(ITEM_COLUMNS, len(rows.items))
    user_file, item_file = inter.with_suffix(".user"), inter.with_suffix(".item")
    if user_file.is_file():
        names, about = _about(user_file, USER, errors)
        user_columns, understood["users"] = user_attributes(
            user_file.name, names, about, rows.users
        )
        sources.append(user_file)
    if item_file.is_file():
        names, about = _about(item_file, ITEM, errors)
        understood["items"] = fill_items(item_file.name, names, about, rows.items, attributes)
        sources.append(item_file)
    if time is None:
        understood["times"] = "no column of times: the order of the lines counts"
    numbered = all(key.isascii() and key.isdigit() for key in rows.items)
    return rows.raw_data(
        name=name or inter.stem,
        format="recbole",
        user_columns=user_columns,
        item_columns=attributes,
        time_unit=POSITION if time is None else None,
        source_numbers=list(rows.items) if numbered else None,
        sources=[describe_source(path) for path in sources],
        errors=errors,
        understood=understood,
        line=line,
    )


def _read_interactions(
    path: Path,
    header: _Header,
    lines: Iterator[tuple[int, list[str]]],
    rows: RowCollector,
    time: str | None,
    errors: LineErrors,
) -> Sequence[int]:
    """Collect the rows; return the line of each."""
    line = array("I")
    users, items = rows.users, rows.items
    user_at, item_at = header.names.index(USER), header.names.index(ITEM)
    rating_at, time_at = header.position(RATING), header.position(time)
    for number, values in lines:
        try:
            user, item = values[user_at], values[item_at]
            if user not in users:  # nearly all are known, and a call for each takes its time
                user = key_of(user, USER)
            if item not in items:
                item = key_of(item, ITEM)
            rating = math.nan if rating_at is None else rating_of(values[rating_at], RATING)
            moment = number if time_at is None else rows.times.parse(values[time_at], str(time))
            rows.add(user, item, rating, moment)
            line.append(number)
        except BadLine as problem:
            errors.report(path, number, problem)
    return line


def _columns(header: _Header, time: str | None) -> str:
    """What the columns of the interactions were taken for."""
    taken = [name for name in (USER, ITEM, RATING) if name in header.names]
    if time is not None:
        taken.append(time if time == "timestamp" else f"{time} as the timestamp")
    unused = [name for name in header.names if name not in (USER, ITEM, RATING, time)]
    return f"{', '.join(taken)}{f'; not used: {listed(unused)}' if unused else ''}"


def _inter_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected a folder of RecBole atomic files")
    expected = folder / f"{folder.resolve().name}.inter"
    if expected.is_file():
        return expected
    found = sorted(folder.glob("*.inter"))
    if len(found) != 1:
        near = found or sorted(folder.glob("*.inter*"))
        names = listed([path.name for path in near]) or "no .inter file"
        raise UserError(f"{folder}: found {names}, expected {expected.name} (gzip or not)")
    return found[0]


def _open(
    path: Path, errors: LineErrors, required: tuple[str, ...]
) -> tuple[_Header, Iterator[tuple[int, list[str]]]]:
    """Return the header and an iterator over (line number, values) of well-formed lines."""
    lines = read_lines(path, errors, "a RecBole header line and data lines")
    number, first = next(lines)
    header = _parse_header(path, number, first)
    for field in required:
        if field not in header.names:
            raise UserError(
                f"{path}:{number}: field {field!r} is missing, found {listed(header.names)}"
            )
    return header, _values(path, lines, len(header.names), errors)


def _parse_header(path: Path, number: int, line: str) -> _Header:
    names, types = list[str](), list[str]()
    for column in split_cells(line, line.count("\t") + 1):
        name, _, kind = column.strip().rpartition(":")
        if not name or kind not in TYPES:
            raise UserError(
                f"{path}:{number}: found header column {shown(column)}, expected name:type with a"
                f" type of {', '.join(TYPES)}"
            )
        if name in names:
            raise UserError(f"{path}:{number}: found column {shown(name)} twice, expected it once")
        names.append(name)
        types.append(kind)
    return _Header(names, types)


def _values(
    path: Path, lines: Iterator[tuple[int, str]], width: int, errors: LineErrors
) -> Iterator[tuple[int, list[str]]]:
    for number, line in lines:
        values = split_cells(line, width) if '"' in line else line.split("\t")
        if len(values) == width:
            yield number, values
        else:
            errors.report(path, number, f"found {len(values)} fields, expected {width}")


def _about(
    path: Path, key: str, errors: LineErrors
) -> tuple[list[str], Iterator[tuple[str, list[str]]]]:
    """Return the other columns of a file about users or items, and each key with their cells."""
    header, lines = _open(path, errors, (key,))
    at = header.names.index(key)
    rows = ((cells.pop(at).strip(), cells) for _, cells in lines)
    return header.names[:at] + header.names[at + 1 :], rows
