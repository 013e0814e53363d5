"""Interactions in the columns of a table, where all of their cells are as nearly all are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5jax.data.readers.arrow_files import values_of
from p5jax.data.readers.cells import MISSING, BadLine, Unusual, is_missing, key_of
from p5jax.data.readers.page_text import plain
from p5jax.data.readers.raw import Rows
from p5jax.data.readers.texts import TEXT, text_rows
from p5jax.data.readers.times import LATEST

DIGITS = 18  # of a number that 64 bits hold, whatever it is
_MISSING = pa.array(sorted(MISSING))
_DAY = 86_400


def in_columns(
    fields: Mapping[str, str],
    users: Collection[str],
    items: Collection[str],
    columns: Sequence[pa.Array],
) -> Rows | None:
    """Return the interactions of some rows; None where a cell is in any way unusual.

    fields: field -> name of its column, in the order of the columns; users, items: keys that are
    known. Without a column of times all times are 0.
    """
    size = len(columns[0])
    nothing = pa.nulls(size, TEXT)
    try:
        cells = dict(zip(fields, map(_decoded, columns), strict=True))
        user_keys, user = _keys(cells["user"], fields["user"], users)
        item_keys, item = _keys(cells["item"], fields["item"], items)
        rating = np.full(size, np.nan, np.float32)
        if "rating" in cells:
            rating = _ratings(cells["rating"])
        times, zoned = np.zeros(size, np.int64), None
        if "timestamp" in cells:
            times, zoned = _times(cells["timestamp"])
        texts = (_texts(cells[name]) if name in cells else nothing for name in ("headline", "text"))
        return Rows(user_keys, item_keys, user, item, rating, times, text_rows(*texts), zoned)
    except (Unusual, BadLine, pa.ArrowException):
        return None


def _decoded(column: pa.Array) -> pa.Array:
    kind = column.type
    return column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column


def _keys(column: pa.Array, name: str, known: Collection[str]) -> tuple[list[str], np.ndarray]:
    """Return the different keys, by first appearance, and each row's among them, int32 [N]."""
    if column.null_count or not len(column):
        raise Unusual
    coded = column.dictionary_encode()
    kind = column.type
    if pa.types.is_integer(kind):
        return coded.dictionary.cast(pa.string()).to_pylist(), coded.indices.to_numpy()
    keys: list[Any] = values_of(coded.dictionary)
    if _is_text(kind):
        odd = (key for key in keys if key not in known and key_of(key, name) != key)
        if next(odd, None) is not None:
            raise Unusual
    else:
        keys = [key_of(key, name) for key in keys]
    return keys, coded.indices.to_numpy()


def _ratings(column: pa.Array) -> np.ndarray:
    """Return the ratings, float32 [N], NaN where there are none."""
    kind = column.type
    if _is_text(kind):
        missing = pc.is_in(column, _MISSING.cast(kind))
        column = pc.if_else(missing, pa.scalar(None, kind), column)
    elif not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise Unusual
    given = np.asarray(column.is_valid())
    numbers = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    # Arrow reads more than one spelling of what is no number.
    if np.isinf(numbers).any() or (_is_text(kind) and np.isnan(numbers[given]).any()):
        raise Unusual
    with np.errstate(over="ignore"):
        found: np.ndarray = numbers.astype(np.float32)
    return found


def _times(column: pa.Array) -> tuple[np.ndarray, bool | None]:
    """Return the times, int64 [N], and whether they are dates with a zone, None for numbers."""
    kind = column.type
    if column.null_count:
        raise Unusual
    zoned = None
    if _is_text(kind):
        if not pc.all(pc.ascii_is_decimal(column)).as_py():
            raise Unusual
        if pc.max(pc.binary_length(column)).as_py() > DIGITS:
            raise Unusual
    elif pa.types.is_date32(kind):
        zoned = False
        column = pc.multiply(column.cast(pa.int32()).cast(pa.int64()), _DAY)
    elif pa.types.is_timestamp(kind):
        zoned = kind.tz is not None
        column = column.cast(pa.timestamp("s", kind.tz))  # an error where there are fractions
        years = pc.min_max(pc.year(column)).as_py()
        if years["min"] < 1 or years["max"] > 9999:
            raise Unusual
    elif not pa.types.is_integer(kind):
        raise Unusual
    times = column.cast(pa.int64()).to_numpy()
    if (times <= -LATEST).any() or (times >= LATEST).any():
        raise Unusual
    return times, zoned


def _texts(column: pa.Array) -> pa.Array:
    values = values_of(column)
    if not {str, NoneType}.issuperset(map(type, values)):
        raise Unusual
    said = (None if value is None or is_missing(value.strip()) else value for value in values)
    return pa.array([value and plain(value) for value in said], TEXT)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
