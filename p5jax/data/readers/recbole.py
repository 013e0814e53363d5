"""RecBole atomic files (.inter, .user, .item) -> RawData."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from p5jax.core.errors import UserError
from p5jax.data.formats import RecboleOptions
from p5jax.data.readers.raw import (
    ITEM_COLUMNS,
    BadLine,
    LineErrors,
    RawData,
    RowCollector,
    describe_source,
    empty_columns,
    one_line,
    parse_time,
    read_lines,
)

TYPES = ("token", "token_seq", "float", "float_seq")
USER, ITEM, RATING, TIME = "user_id", "item_id", "rating", "timestamp"

# dataset column <- the first source column whose name contains one of these words
ITEM_WORDS = {
    "title": ("title", "name"),
    "brand": ("brand",),
    "categories": ("categor", "genre", "class"),
    "price": ("price",),
}


@dataclass(frozen=True)
class _Header:
    """The columns of an atomic file, in order, and their types."""

    names: list[str]
    types: list[str]

    def position(self, name: str) -> int | None:
        return self.names.index(name) if name in self.names else None


def read(options: RecboleOptions) -> RawData:
    """Read the files that the options of `p5jax.prepare` name."""
    return read_recbole(Path(options.folder), skip_bad_lines=options.skip_bad_lines)


def read_recbole(folder: Path, *, name: str | None = None, skip_bad_lines: bool = False) -> RawData:
    """Read a folder of atomic files; NAME.inter must be there, NAME.user and NAME.item may be.

    NAME is the folder's name, or that of its only .inter file. Ratings and timestamps are
    optional: without timestamps the order of the lines counts. Columns of the .user file become
    profile attributes. The source's item numbering is taken from item keys that are all numbers.
    UserError names file and line of what is malformed, unless `skip_bad_lines` counts it.
    """
    inter = _inter_file(folder)
    errors = LineErrors(skip_bad_lines)
    rows = RowCollector()
    header, lines = _open(inter, errors, (USER, ITEM))
    rating_at, time_at = header.position(RATING), header.position(TIME)
    user_at, item_at = header.names.index(USER), header.names.index(ITEM)
    for number, values in lines:
        try:
            rating = math.nan if rating_at is None else _number(values[rating_at], RATING)
            time = number if time_at is None else parse_time(_number(values[time_at], TIME), TIME)
            user, item = _key(values[user_at], USER), _key(values[item_at], ITEM)
            rows.add(user, item, rating, time, line=number)
        except BadLine as problem:
            errors.report(inter, number, problem)
    sources = [inter]
    user_columns: dict[str, list[str | None]] = {}
    item_columns = empty_columns(ITEM_COLUMNS, len(rows.items))
    user_file, item_file = inter.with_suffix(".user"), inter.with_suffix(".item")
    if user_file.is_file():
        user_columns = _read_users(user_file, rows.users, errors)
        sources.append(user_file)
    if item_file.is_file():
        _read_items(item_file, rows.items, item_columns, errors)
        sources.append(item_file)
    numbered = all(key.isascii() and key.isdigit() for key in rows.items)
    return rows.raw_data(
        name=name or inter.stem,
        format="recbole",
        user_columns=user_columns,
        item_columns=item_columns,
        time_unit="second" if time_at is not None else "position",
        source_numbers=list(rows.items) if numbered else None,
        sources=[describe_source(path) for path in sources],
        skipped_lines=errors.skipped,
    )


def _inter_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected a folder of RecBole atomic files")
    expected = folder / f"{folder.resolve().name}.inter"
    if expected.is_file():
        return expected
    found = sorted(folder.glob("*.inter"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "no .inter file"
        raise UserError(f"{folder}: found {names}, expected {expected.name}")
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
                f"{path}:{number}: field {field!r} is missing, found {', '.join(header.names)}"
            )
    return header, _values(path, lines, len(header.names), errors)


def _parse_header(path: Path, number: int, line: str) -> _Header:
    names, types = [], []
    for column in line.split("\t"):
        name, _, kind = column.strip().rpartition(":")
        if not name or kind not in TYPES:
            raise UserError(
                f"{path}:{number}: found header column {column!r}, expected name:type with a"
                f" type of {', '.join(TYPES)}"
            )
        names.append(name)
        types.append(kind)
    return _Header(names, types)


def _values(
    path: Path, lines: Iterator[tuple[int, str]], width: int, errors: LineErrors
) -> Iterator[tuple[int, list[str]]]:
    for number, line in lines:
        values = line.split("\t")
        if len(values) == width:
            yield number, values
        else:
            errors.report(path, number, f"found {len(values)} fields, expected {width}")


def _number(value: str, field: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadLine(f"field {field!r}: found {value!r}, expected a number")
    return number


def _key(value: str, field: str) -> str:
    if not value.strip():
        raise BadLine(f"field {field!r}: found an empty value, expected a token")
    return value.strip()


def _read_users(
    path: Path, users: dict[str, int], errors: LineErrors
) -> dict[str, list[str | None]]:
    """Return a column per attribute of the .user file; "name" when one is called so."""
    header, lines = _open(path, errors, (USER,))
    key_at = header.names.index(USER)
    attributes = [name for name in header.names if name != USER]
    # "user" and "key" are columns of the dataset's own
    labels = {name: f"{name}_" if name in ("user", "key") else name for name in attributes}
    columns = empty_columns([labels[name] for name in attributes], len(users))
    for _, values in lines:
        index = users.get(values[key_at].strip())
        if index is not None:
            for name, value in zip(header.names, values, strict=True):
                if name != USER:
                    columns[labels[name]][index] = one_line(value)
    return columns


def _read_items(
    path: Path, items: dict[str, int], columns: dict[str, list[str | None]], errors: LineErrors
) -> None:
    header, lines = _open(path, errors, (ITEM,))
    key_at = header.names.index(ITEM)
    source = {
        column: position
        for column, words in ITEM_WORDS.items()
        if (position := _first_holding(header.names, words)) is not None
    }
    for _, values in lines:
        index = items.get(values[key_at].strip())
        if index is not None:
            for column, position in source.items():
                columns[column][index] = one_line(values[position])


def _first_holding(names: list[str], words: tuple[str, ...]) -> int | None:
    for position, name in enumerate(names):
        if any(word in name.lower() for word in words):
            return position
    return None
