"""P5 / S3-Rec sequence files, with optional key maps and item tables -> RawData."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from p5jax.core.documents import json_value
from p5jax.core.errors import UserError, shown
from p5jax.core.kinds import is_text
from p5jax.data.formats import SequencesOptions, file_path
from p5jax.data.readers.cells import BadLine, Matches, filled, known, split_cells
from p5jax.data.readers.lines import LineErrors, read_lines, read_text
from p5jax.data.readers.raw import (
    ITEM_COLUMNS,
    RawData,
    RowCollector,
    describe_source,
    empty_columns,
)
from p5jax.data.time_split import POSITION

DIGITS = 18  # of a number, at most
TABLE_COLUMNS = 6  # number, key, title, brand, categories, price
# A text of a list; the quantifiers give nothing back, so that a lone quote costs no time.
QUOTED = r"""\s*+(?:'((?:[^'\\]|\\.)*+)'|"((?:[^"\\]|\\.)*+)")\s*+(?:,|$)"""
ITEM, LIST = re.compile(QUOTED, re.DOTALL), re.compile(f"(?:{QUOTED})++", re.DOTALL)
ESCAPE = re.compile(r"\\(.)", re.DOTALL)
ROW_START = re.compile(r"[0-9]+\t")
UNKNOWN = ("unknown", "none")  # what a table of items writes for a missing value, too


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
        rows.add_sequence(user_key, [key_of[item] for item in histories[user]])
    columns = empty_columns(ITEM_COLUMNS, len(item_keys))
    understood = {"times": "none: the order of the items on a line counts"}
    if items is not None:
        understood["items"] = _read_items(items, columns, rows.items, item_numbers, errors)
    return rows.raw_data(
        name=name or sequences.resolve().parent.name,
        format="sequences",
        user_columns={},
        item_columns=columns,
        time_unit=POSITION,
        source_numbers=[str(number) for number in item_numbers],
        sources=[describe_source(path) for path in (sequences, datamaps, items) if path],
        errors=errors,
        understood=understood,
    )


def _parse_number(word: str) -> int:
    if len(word) > DIGITS or not (word.isdigit() and word.isascii()):
        raise BadLine(f"found {shown(word)}, expected user and item numbers")
    return int(word)


def _key_maps(path: Path | None) -> tuple[dict[str, str] | None, dict[str, str] | None]:
    if path is None:
        return None, None
    expected = "a datamaps JSON file"
    maps = json_value(path, read_text(path, expected), object, expected)
    for field in ("id2user", "id2item"):
        if not isinstance(maps, dict) or not isinstance(maps.get(field), dict):
            raise UserError(f"{path}: field {field!r} is missing, expected an object number -> key")
    return maps["id2user"], maps["id2item"]


def _map_key(keys: dict[str, str] | None, number: int, path: Path | None, field: str) -> str:
    if keys is None:
        return str(number)
    key = keys.get(str(number))
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    key = key.strip() if isinstance(key, str) else ""
    if not key or not is_text(key):
        raise UserError(
            f"{path}: field {field!r}: found {shown(keys.get(str(number)))} for {number}, expected"
            " its key"
        )
    return key


def _refuse_repeated(keys: list[str], path: Path, what: str) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise UserError(
                f"{path}: found key {shown(key)} for two {what}, expected distinct keys"
            )
        seen.add(key)


def _read_items(
    path: Path,
    columns: dict[str, list[str | None]],
    index_of_key: dict[str, int],
    item_numbers: list[int],
    errors: LineErrors,
) -> str:
    """Fill the item columns from a table or a keyword list; other items are ignored.

    Returns how many items it has.
    """
    keys = list(index_of_key)
    named = keys != [str(number) for number in item_numbers]  # by datamaps
    matches = Matches(index_of_key, "items")
    numbered = Matches({str(number): at for at, number in enumerate(item_numbers)}, "items")
    for number, line in _joined(read_lines(path, errors, "an item table or keyword list")):
        try:
            if "\t" not in line:
                key, _, keywords = line.strip().partition(" ")
                _fill(columns, matches.index(key), title=known(keywords))
                continue
            cells = split_cells(line, TABLE_COLUMNS)
            if len(cells) < TABLE_COLUMNS:
                raise BadLine(
                    f"found {len(cells)} fields, expected {TABLE_COLUMNS} separated by tabs"
                )
            index = numbered.index(str(_parse_number(cells[0].strip())))
            key = cells[1].strip()
            if named and index is not None and key != keys[index]:
                raise BadLine(
                    f"found key {shown(key)} for item {cells[0].strip()}, expected"
                    f" {shown(keys[index])} as in the datamaps"
                )
            title = _known(" ".join(cells[2:-3]))  # a tab too many can only be in the title
            brand, categories, price = map(_known, cells[-3:])
            _fill(
                columns, index, title=title, brand=brand, categories=_path(categories), price=price
            )
        except BadLine as problem:
            errors.report(path, number, problem)
    return (numbered if numbered.rows else matches).understood(path.name, filled(columns))


def _joined(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Join a table row that a line end inside its title has cut in two."""
    start, pieces, tabs = 0, list[str](), 0
    for number, line in lines:
        if pieces and ROW_START.match(line):
            yield start, " ".join(pieces)
            pieces, tabs = [], 0
        start = start if pieces else number
        pieces.append(line)
        tabs += line.count("\t")
        if tabs >= TABLE_COLUMNS - 1 or not tabs:
            yield start, " ".join(pieces)
            pieces, tabs = [], 0
    if pieces:
        yield start, " ".join(pieces)


def _fill(columns: dict[str, list[str | None]], index: int | None, **values: str | None) -> None:
    if index is not None:
        for name, value in values.items():
            columns[name][index] = value


def _known(cell: str) -> str | None:
    value = known(cell)
    return None if value is None or value.lower() in UNKNOWN else value


def _path(categories: str | None) -> str | None:
    """Return "'Beauty', 'Makeup'" as "Beauty | Makeup", anything else unchanged."""
    if categories is None:
        return None
    text = categories.removeprefix("[").removesuffix("]")
    if not LIST.fullmatch(text):
        return categories
    parts = list(dict.fromkeys(single or double for single, double in ITEM.findall(text)))
    if "\\" in text:
        parts = [ESCAPE.sub(r"\1", part) for part in parts]
    return " | ".join(filter(None, parts)) or categories
