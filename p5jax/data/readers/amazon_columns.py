"""A block of Amazon's reviews in columns, where all of its lines are as nearly all are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from p5jax.core.kinds import is_text
from p5jax.data.readers.amazon_reviews import NEW, OLD, Fields, Found
from p5jax.data.readers.cells import MISSING, BadLine, Unusual
from p5jax.data.readers.json_lines import Record, json_record
from p5jax.data.readers.lines import NEWLINE, Block
from p5jax.data.readers.page_text import plain
from p5jax.data.readers.raw import Rows
from p5jax.data.readers.texts import TEXT, text_rows
from p5jax.data.readers.times import LATEST

LINES = 128  # that are objects of Python at once, few enough for a core's cache


def in_columns(scale: Sequence[float], path: Path, block: Block) -> Found | None:
    """Return what `Reviews.read` finds in a block; None where a line is in any way unusual.

    scale: the lowest and the highest rating.
    """
    lines = block.data.removesuffix(NEWLINE).split(NEWLINE)
    try:
        (first,) = _records(lines[:1])
        fields = NEW if NEW.user in first and OLD.user not in first else OLD
        values = _values(fields, lines)
        rows = _rows(scale, fields, values)
        names = _names(values.get(fields.name or "", []), rows)
    except (Unusual, BadLine, LookupError, TypeError, OverflowError, UnicodeDecodeError):
        return None
    return Found(rows, names, {fields.user: (path, block.first)})


def _records(lines: Sequence[bytes]) -> list[Record]:
    try:
        records = [*map(orjson.loads, lines)]
    except orjson.JSONDecodeError:  # of half a pair of surrogates, say, which texts are cut within
        records = [json_record(line.decode()) for line in lines]
    _check_types(records, {dict})
    return records


def _values(fields: Fields, lines: Sequence[bytes]) -> dict[str, list[Any]]:
    """The values of each field [N], None where there is none; those of items by the last name."""
    said = (fields.rating, fields.time, fields.headline, fields.text, fields.name)
    values: dict[str, list[Any]] = {field: [] for field in said if field}
    users, items = list[Any](), list[Any]()
    first, last = fields.item[0], fields.item[-1]
    for start in range(0, len(lines), LINES):
        records = _records(lines[start : start + LINES])
        if fields is NEW and any(OLD.user in record for record in records):
            raise Unusual
        users += [record[fields.user] for record in records]
        items += [record[first] if first in record else record[last] for record in records]
        for field, column in values.items():
            column += [record.get(field) for record in records]
    return values | {fields.user: users, last: items}


def _rows(scale: Sequence[float], fields: Fields, values: dict[str, list[Any]]) -> Rows:
    users, user = _keys(values[fields.user])
    items, item = _keys(values[fields.item[-1]])
    _check_types(values[fields.rating], {int, float})
    _check_types(values[fields.time], {int})
    rating = np.array(values[fields.rating], np.float64)
    time = np.array(values[fields.time], np.int64)
    if not ((rating >= scale[0]) & (rating <= scale[1])).all() or (np.abs(time) >= LATEST).any():
        raise Unusual
    texts = text_rows(_texts(values[fields.headline]), _texts(values[fields.text]))
    return Rows(users, items, user, item, rating.astype(np.float32), time, texts)


def _keys(values: list[str]) -> tuple[list[str], np.ndarray]:
    """Return the different keys, and each value's place among them, int32 [N]."""
    positions = {key: place for place, key in enumerate(dict.fromkeys(values))}
    _check_types(positions, {str})
    keys = [*positions]
    clean = keys == [*map(str.strip, keys)] and is_text("".join(keys))
    if not clean or not MISSING.isdisjoint(keys):
        raise Unusual
    return keys, np.fromiter(map(positions.__getitem__, values), np.int32, len(values))


def _texts(values: list[str | None]) -> pa.Array:
    _check_types(values, {str, NoneType})
    return pa.array([plain(value) if value else None for value in values], TEXT)


def _names(values: list[str | None], rows: Rows) -> list[str | None]:
    """The name of each user, the first that is one; None where there are no values."""
    _check_types(values, {str, NoneType})
    names: list[str | None] = [None] * len(rows.users)
    for user, value in zip(rows.user.tolist(), values, strict=False):
        if value and names[user] is None:
            names[user] = plain(value)
    return names


def _check_types(values: Sequence[object] | dict[str, int], types: set[type]) -> None:
    if not types.issuperset(map(type, values)):
        raise Unusual
