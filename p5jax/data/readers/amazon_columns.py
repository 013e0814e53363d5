"""A block of Amazon's reviews in columns, where its lines are as nearly all are.

Arrow parses them, which leaves Python's lock to other threads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from p5jax.data.readers.amazon_reviews import NEW, OLD, Fields, Found
from p5jax.data.readers.cells import MISSING, BadLine, Unusual
from p5jax.data.readers.json_lines import json_record
from p5jax.data.readers.lines import NEWLINE, Block
from p5jax.data.readers.page_text import plain
from p5jax.data.readers.raw import Rows
from p5jax.data.readers.texts import TEXT, text_rows
from p5jax.data.readers.times import LATEST

SMALLEST = 1 << 16  # bytes of a block that is not halved to find its unusual lines
# What follows an object where a line has several. A null that does so, or stands on a line of its
# own, ends Arrow's process.
_FOLLOWED = re.compile(rb"}(?:[ \t\r]*{|\s*null)")


def in_columns(
    scale: Sequence[float], path: Path, block: Block
) -> list[tuple[Block, Found | None]]:
    """Return a block in pieces, and what `Reviews.read` finds in each.

    None where what is read of a line is in any way unusual: such pieces are small. scale: the
    lowest and the highest rating.
    """
    try:
        return [(block, _found(scale, path, block))]
    except (Unusual, BadLine, pa.ArrowInvalid, UnicodeDecodeError):
        halves = block.halves() if len(block.data) > SMALLEST else ()
        if not halves:
            return [(block, None)]
        return [piece for half in halves for piece in in_columns(scale, path, half)]


def _found(scale: Sequence[float], path: Path, block: Block) -> Found:
    first = json_record(block.data.partition(NEWLINE)[0].decode())
    fields = NEW if NEW.user in first and OLD.user not in first else OLD
    columns = _columns(fields, block.data)
    users, user = _keys(columns[fields.user])
    items, item = _keys(columns[_item_field(fields, block.data)])
    rating, time = (_numbers(columns[field]) for field in (fields.rating, fields.time))
    if (
        not ((rating >= scale[0]) & (rating <= scale[1])).all()
        or ((time <= -LATEST) | (time >= LATEST)).any()
    ):
        raise Unusual
    texts = text_rows(_plain(columns[fields.headline]), _plain(columns[fields.text]))
    names: list[str | None] = [None] * len(users)
    if fields.name:
        names = _first_of_each(_plain(columns[fields.name]), user, len(users))
    rows = Rows(users, items, user, item, rating.astype(np.float32), time, texts)
    return Found(rows, names, {fields.user: (path, block.first)})


def _columns(fields: Fields, data: bytes) -> dict[str, pa.Array]:
    """The fields of each line [N], null where there is none; Unusual where one is no object."""
    if _FOLLOWED.search(data) or (fields is NEW and _has_field(OLD.user, data)):
        raise Unusual
    if not data.isascii():
        data.decode()  # what Arrow does not look at may be no UTF-8
    texts = (fields.user, *fields.item, fields.headline, fields.text, fields.name)
    kinds = {name: TEXT for name in texts if name}
    kinds |= {fields.rating: pa.float64(), fields.time: pa.int64()}
    table = pyarrow.json.read_json(
        pa.BufferReader(data),
        pyarrow.json.ReadOptions(use_threads=False, block_size=len(data)),
        pyarrow.json.ParseOptions(pa.schema(kinds), unexpected_field_behavior="ignore"),
    )
    if table.num_rows != data.count(NEWLINE) + (not data.endswith(NEWLINE)):
        raise Unusual  # no line has two, so there are fewer where one has none or is no whole one
    return {name: table[name].combine_chunks() for name in kinds}


def _has_field(name: str, data: bytes) -> bool:
    """Whether some line may have a field, whose value may be null."""
    return f'"{name}"'.encode() in data


def _item_field(fields: Fields, data: bytes) -> str:
    """The field of the item's key, which all lines must have."""
    *others, last = fields.item
    return next((name for name in others if _has_field(name, data)), last)


def _keys(values: pa.Array) -> tuple[list[str], np.ndarray]:
    """Return the different keys, and each value's place among them, int32 [N]."""
    if values.null_count:
        raise Unusual
    coded = values.dictionary_encode()
    keys: list[str] = coded.dictionary.to_pylist()
    if keys != [*map(str.strip, keys)] or not MISSING.isdisjoint(keys):
        raise Unusual
    return keys, np.asarray(coded.indices)


def _numbers(values: pa.Array) -> np.ndarray:
    if values.null_count:
        raise Unusual
    return np.asarray(values)


def _plain(values: pa.Array) -> pa.Array:
    """The texts [N], each as `plain` makes it, which leaves nearly all as they are."""
    bounds = np.frombuffer(values.buffers()[1], np.int64)[values.offset :][: len(values) + 1]
    codes = np.frombuffer(values.buffers()[2] or b"", np.uint8)
    written = np.flatnonzero(bounds[1:] > bounds[:-1])
    edges = codes[np.stack([bounds[written], bounds[written + 1] - 1])]
    changes = bounds[1:] == bounds[:-1]
    changes[written] = ((edges <= ord(" ")) | (edges > ord("~"))).any(axis=0)
    signs = np.flatnonzero((codes == ord("<")) | (codes == ord("&")))
    changes[np.searchsorted(bounds, signs, side="right") - 1] = True
    if not changes.any():
        return values
    some = values.filter(pa.array(changes)).to_pylist()
    by = pa.array([plain(value) if value else None for value in some], TEXT)
    return pc.replace_with_mask(values, pa.array(changes), by)


def _first_of_each(values: pa.Array, group: np.ndarray, groups: int) -> list[str | None]:
    """The first value [N] of each group that is not null."""
    known = np.flatnonzero(values.is_valid())[::-1]
    first = np.full(groups, -1)
    first[group[known]] = known  # where several are of a group, the last in the row stays
    found: list[str | None] = values.take(pa.array(first, mask=first < 0)).to_pylist()
    return found
