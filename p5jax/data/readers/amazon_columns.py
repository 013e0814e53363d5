"""A block of Amazon's reviews in columns, where all of its lines are as nearly all are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import NoneType

import numpy as np
import orjson
import pyarrow as pa

from p5jax.core.kinds import is_text
from p5jax.data.readers.amazon_reviews import NEW, OLD, Fields, Found
from p5jax.data.readers.cells import BadLine, is_missing
from p5jax.data.readers.json_lines import Record, json_record
from p5jax.data.readers.lines import NEWLINE, Block
from p5jax.data.readers.page_text import plain
from p5jax.data.readers.raw import Rows
from p5jax.data.readers.texts import TEXT, Packed, text_rows
from p5jax.data.readers.times import LATEST


class _Unusual(Exception):
    """Something of which `Reviews.read` knows what to do with its line."""


def in_columns(scale: Sequence[float], path: Path, block: Block) -> Found | None:
    """Return what `Reviews.read` finds in a block; None where a line is in any way unusual.

    scale: the lowest and the highest rating.
    """
    try:
        records = _records(block)
        fields = NEW if NEW.user in records[0] and OLD.user not in records[0] else OLD
        if fields is NEW and any(OLD.user in record for record in records):
            return None
        rows = _rows(scale, fields, records)
        names = _names(fields, records, rows)
    except (_Unusual, BadLine, LookupError, TypeError, OverflowError, UnicodeDecodeError):
        return None
    return Found(rows, names, {fields.user: (path, block.first)})


def _records(block: Block) -> list[Record]:
    lines = block.data.removesuffix(NEWLINE).split(NEWLINE)
    try:
        records = [*map(orjson.loads, lines)]
    except orjson.JSONDecodeError:  # of half a pair of surrogates, say, which texts are cut within
        records = [json_record(line.decode()) for line in lines]
    _check_types(records, {dict})
    return records


def _rows(scale: Sequence[float], fields: Fields, records: list[Record]) -> Rows:
    users, user = _keys([record[fields.user] for record in records])
    first, last = fields.item[0], fields.item[-1]
    items, item = _keys([record[first] if first in record else record[last] for record in records])
    ratings = [record[fields.rating] for record in records]
    times = [record[fields.time] for record in records]
    _check_types(ratings, {int, float})
    _check_types(times, {int})
    rating, time = np.array(ratings, np.float64), np.array(times, np.int64)
    if not ((rating >= scale[0]) & (rating <= scale[1])).all() or (np.abs(time) >= LATEST).any():
        raise _Unusual
    texts = text_rows(_texts(fields.headline, records), _texts(fields.text, records))
    return Rows(users, items, user, item, rating.astype(np.float32), time, [Packed.of(texts)])


def _keys(values: list[str]) -> tuple[list[str], np.ndarray]:
    """Return the different keys, and each value's place among them, int32 [N]."""
    places = {key: place for place, key in enumerate(dict.fromkeys(values))}
    _check_types(places, {str})
    if any(key != key.strip() or is_missing(key) or not is_text(key) for key in places):
        raise _Unusual
    return [*places], np.fromiter(map(places.__getitem__, values), np.int32, len(values))


def _texts(field: str, records: list[Record]) -> pa.Array:
    values = [record.get(field) for record in records]
    _check_types(values, {str, NoneType})
    return pa.array([plain(value) if value else None for value in values], TEXT)


def _names(fields: Fields, records: list[Record], rows: Rows) -> list[str | None]:
    """The name of each user, the first that is one."""
    names: list[str | None] = [None] * len(rows.users)
    if fields.name is not None:
        values = [record.get(fields.name) for record in records]
        _check_types(values, {str, NoneType})
        for user, value in zip(rows.user.tolist(), values, strict=True):
            if value and names[user] is None:
                names[user] = plain(value)
    return names


def _check_types(values: Sequence[object] | dict[str, int], types: set[type]) -> None:
    if not types.issuperset(map(type, values)):
        raise _Unusual
