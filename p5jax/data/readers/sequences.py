"""P5 / S3-Rec sequence files, with optional key maps and item tables -> RawData."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from p5jax.core.documents import read_json
from p5jax.core.errors import UserError
from p5jax.core.kinds import is_text
from p5jax.data.formats import SequencesOptions, file_path
from p5jax.data.readers.raw import (
    ITEM_COLUMNS,
    BadLine,
    LineErrors,
    RawData,
    RowCollector,
    describe_source,
    empty_columns,
    one_line,
    read_lines,
)

NUMBER = re.compile(r"[0-9]{1,18}")
TABLE_COLUMNS = 6  # number, key, title, brand, categories, price
QUOTED_LIST = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""")
ROW_START = re.compile(r"[0-9]+\t")
_LARGEST_DATAMAPS = 1 << 30  # bytes
UNKNOWN_CELLS = {"unknown", "none", "nan", ""}


def read(options: SequencesOptions) -> RawData:
    """Read the files that the options of `p5jax.prepare` name."""
    return read_sequences(
        Path(options.sequences),
        file_path(options.datamaps),
        file_path(options.items),
        skip_bad_lines=options.skip_bad_lines,
    )


def read_sequences(
    sequences: Path,
    datamaps: Path | None = None,
    items: Path | None = None,
    *,
    name: str | None = None,
    skip_bad_lines: bool = False,
) -> RawData:
    """Read one line per user: the user's number, then item numbers in time order.

    datamaps: JSON with "id2user" and "id2item", number -> original key; else numbers are the keys.
    items: a table (tab-separated: number, key, title, brand, categories, price) or lines of a key
    and keywords. Users and items are ordered by number; the time is the position. The numbering is
    the source's own, which its authors made from whole sequences, held-out items included.
    UserError names file and line of what is malformed, unless `skip_bad_lines` counts it.
    """
    errors = LineErrors(skip_bad_lines)
    histories: dict[int, list[int]] = {}
    for number, line in read_lines(sequences, errors, "a user and the user's items a line"):
        try:
            user, *history = map(_parse_number, line.split())
            if not history:
                raise BadLine(f"found user {user} without items, expected user item item ...")
            if user in histories:
                raise BadLine(f"found user {user} again, expected one line per user")
            histories[user] = history
        except BadLine as problem:
            errors.report(sequences, number, problem)
    item_numbers = sorted({item for history in histories.values() for item in history})
    user_of, item_of = _key_maps(datamaps)
    user_keys = [_map_key(user_of, number, datamaps, "id2user") for number in sorted(histories)]
    item_keys = [_map_key(item_of, number, datamaps, "id2item") for number in item_numbers]
    for keys, what in ((user_keys, "users"), (item_keys, "items")):
        _refuse_repeated(keys, datamaps or sequences, what)
    rows = RowCollector(user_keys, item_keys)
    key_of = dict(zip(item_numbers, item_keys, strict=True))
    for user_key, user in zip(user_keys, sorted(histories), strict=True):
        for position, item in enumerate(histories[user]):
            rows.add(user_key, key_of[item], math.nan, position)
    columns = empty_columns(ITEM_COLUMNS, len(item_keys))
    if items is not None:
        _read_items(
            items,
            columns,
            rows.items,
            dict(zip(item_numbers, range(len(item_numbers)), strict=True)),
            errors,
        )
    return rows.raw_data(
        name=name or sequences.resolve().parent.name,
        format="sequences",
        user_columns={},
        item_columns=columns,
        time_unit="position",
        source_numbers=[str(number) for number in item_numbers],
        sources=[describe_source(path) for path in (sequences, datamaps, items) if path],
        skipped_lines=errors.skipped,
    )


def _parse_number(word: str) -> int:
    if not NUMBER.fullmatch(word):
        raise BadLine(f"found {word!r}, expected user and item numbers")
    return int(word)


def _key_maps(path: Path | None) -> tuple[dict[str, str] | None, dict[str, str] | None]:
    if path is None:
        return None, None
    maps = read_json(path, object, "a datamaps JSON file", _LARGEST_DATAMAPS)
    for field in ("id2user", "id2item"):
        if not isinstance(maps, dict) or not isinstance(maps.get(field), dict):
            raise UserError(f"{path}: field {field!r} is missing, expected an object number -> key")
    return maps["id2user"], maps["id2item"]


def _map_key(keys: dict[str, str] | None, number: int, path: Path | None, field: str) -> str:
    if keys is None:
        return str(number)
    key = keys.get(str(number))
    if not isinstance(key, str) or not key or not is_text(key):
        raise UserError(f"{path}: field {field!r}: found {key!r} for {number}, expected its key")
    return key


def _refuse_repeated(keys: list[str], path: Path, what: str) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise UserError(f"{path}: found key {key!r} for two {what}, expected distinct keys")
        seen.add(key)


def _read_items(
    path: Path,
    columns: dict[str, list[str | None]],
    index_of_key: dict[str, int],
    index_of_number: dict[int, int],
    errors: LineErrors,
) -> None:
    """Fill the item columns from a table or a keyword list; other items are ignored."""
    for number, line in _joined(read_lines(path, errors, "an item table or keyword list")):
        try:
            if "\t" not in line:
                key, _, keywords = line.strip().partition(" ")
                _fill(columns, index_of_key.get(key), title=one_line(keywords))
                continue
            cells = line.split("\t")
            if len(cells) < TABLE_COLUMNS:
                raise BadLine(
                    f"found {len(cells)} fields, expected {TABLE_COLUMNS} separated by tabs"
                )
            index = index_of_number.get(_parse_number(cells[0].strip()))
            title = _known(" ".join(cells[2:-3]))  # a tab too many can only be in the title
            brand, categories, price = map(_known, cells[-3:])
            _fill(
                columns, index, title=title, brand=brand, categories=_path(categories), price=price
            )
        except BadLine as problem:
            errors.report(path, number, problem)


def _joined(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Join a table row that a line end inside its title has cut in two."""
    start, row = 0, ""
    for number, line in lines:
        if row and not ROW_START.match(line):
            row += " " + line
        else:
            if row:
                yield start, row
            start, row = number, line
        if row.count("\t") >= TABLE_COLUMNS - 1 or "\t" not in row:
            yield start, row
            row = ""
    if row:
        yield start, row


def _fill(columns: dict[str, list[str | None]], index: int | None, **values: str | None) -> None:
    if index is not None:
        for name, value in values.items():
            columns[name][index] = value


def _known(cell: str) -> str | None:
    value = one_line(cell)
    return None if value is None or value.lower() in UNKNOWN_CELLS else value


def _path(categories: str | None) -> str | None:
    """Return "'Beauty', 'Makeup'" as "Beauty | Makeup", anything else unchanged."""
    if categories is None:
        return None
    parts = [single or double for single, double in QUOTED_LIST.findall(categories)]
    return " | ".join(dict.fromkeys(parts)) or categories
