"""Raw interactions as columns: what every reader returns, and how it collects them."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from p5jax.core.errors import UserError
from p5jax.data.formats import MEMORY
from p5jax.data.readers.cells import WARNING as WARNING
from p5jax.data.readers.lines import LineErrors
from p5jax.data.readers.texts import CHUNK, TEXT, Texts, text_rows
from p5jax.data.readers.times import Time, Times

ITEM_COLUMNS = ("title", "brand", "categories", "price")


@dataclass(frozen=True)
class RawData:
    """Interactions in source order, N rows over U users and I items, before any filtering.

    user, item: int32 [N], numbered by first appearance; rating: float32 [N], NaN where the source
    has none; timestamp: int64 [N] in `time_unit`; texts: the headlines and texts [N].
    user_columns ("name", then profile attributes) and item_columns (ITEM_COLUMNS) hold a list of
    U or I values, None where unknown. line: uint32 [N], the line of each row in its source, 0 where
    it is not known. rating_scale: the lowest and the highest rating that the format has, if it says
    so. source_numbers: the source's own item numbering, if it has
    one. feature_words: a given feature list, most frequent first; None: extract one.
    sources: path, bytes and sha256 of each file. starts: each file's first row, where the rows are
    of several. understood: what the reader took the source for,
    a topic ("times", "ratings", ...) and one plain sentence, which begins with WARNING where it may
    not be what the user meant; with what `build_dataset` adds, ten topics at most.
    """

    name: str
    format: str
    user_keys: list[str]
    item_keys: list[str]
    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    timestamp: np.ndarray
    texts: Texts
    user_columns: dict[str, list[str | None]]
    item_columns: dict[str, list[str | None]]
    time_unit: str
    line: np.ndarray
    rating_scale: tuple[float, float] | None = None
    source_numbers: list[str] | None = None
    feature_words: list[str] | None = None
    sources: list[dict[str, Any]] = field(default_factory=list)
    skipped_lines: int = 0
    understood: dict[str, str] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)

    @property
    def headline(self) -> pa.ChunkedArray:
        """The headlines, Arrow strings [N], all in memory."""
        return self.texts.take(np.arange(len(self.user)))["headline"]

    @property
    def text(self) -> pa.ChunkedArray:
        """The texts, Arrow strings [N], all in memory."""
        return self.texts.take(np.arange(len(self.user)))["text"]


@dataclass(frozen=True)
class Rows:
    """Some rows [N] of a source that are read apart from the others; `RowCollector.extend`.

    users, items: their keys; user, item: int32 [N], numbers of these keys; rating: float32 [N];
    times, zoned: as for `Times.extend`; texts: rows of texts.SCHEMA [N].
    """

    users: list[str]
    items: list[str]
    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    times: np.ndarray
    texts: pa.RecordBatch
    zoned: bool | None = None


class RowCollector:
    """Collects a reader's rows into compact columns, numbering keys by first appearance."""

    def __init__(
        self, users: Iterable[str] = (), items: Iterable[str] = (), memory: float = MEMORY
    ) -> None:
        """Start with these keys, numbered in this order before any row has them.

        memory: GiB that texts may take.
        """
        self.users = {key: index for index, key in enumerate(users)}
        self.items = {key: index for index, key in enumerate(items)}
        self.user, self.item = array("i"), array("i")
        self.rating, self.times = array("f"), Times()
        self._whole_times = self.times.whole
        self._headlines, self._texts = list[str | None](), list[str | None]()
        self.texts = Texts(memory)

    def __len__(self) -> int:
        return len(self.user)

    def add(
        self,
        user: str,
        item: str,
        rating: float,
        timestamp: Time,
        headline: str | None = None,
        text: str | None = None,
    ) -> int:
        """Append one row (rating NaN when the source has none); return the user's index."""
        index = self.users.setdefault(user, len(self.users))
        self.user.append(index)
        self.item.append(self.items.setdefault(item, len(self.items)))
        self.rating.append(rating)
        if type(timestamp) is int:  # nearly always, and a call for each row takes its time
            self._whole_times.append(timestamp)
        else:
            self.times.append(timestamp)
        self._headlines.append(headline)
        self._texts.append(text)
        if len(self._texts) == CHUNK:
            self._flush()
        return index

    def add_sequence(self, user: str, items: Sequence[str]) -> None:
        """Append a user's items in order, without rating and text; their times are 0, 1, ...

        All keys are those that the collector started with.
        """
        self.user.extend([self.users[user]] * len(items))
        self.item.extend([self.items[item] for item in items])
        self.rating.extend([math.nan] * len(items))
        self._whole_times.extend(range(len(items)))
        self._headlines.extend([None] * len(items))
        self._texts.extend([None] * len(items))
        if len(self._texts) >= CHUNK:
            self._flush()

    def extend(self, rows: Rows) -> list[int] | None:
        """Append rows; return the index of each of their users.

        None, and nothing is appended, where the times so far are other ones than theirs.
        """
        if not self.times.extend(rows.times, rows.zoned):
            return None
        self._flush()
        users, items = _numbers(self.users, rows.users), _numbers(self.items, rows.items)
        self.user.frombytes(np.array(users, np.intc)[rows.user].tobytes())
        self.item.frombytes(np.array(items, np.intc)[rows.item].tobytes())
        self.rating.frombytes(rows.rating.tobytes())
        self.texts.append(rows.texts)
        return users

    def _flush(self) -> None:
        if not self._texts:
            return
        rows = text_rows(pa.array(self._headlines, TEXT), pa.array(self._texts, TEXT))
        self.texts.append(rows)
        self._headlines.clear()
        self._texts.clear()

    def read_float_keys(self) -> str:
        """Read keys such as 12.0 as 12 where all users or all items are numbers; say so.

        Programs that hold numbers beside missing values write them so.
        """
        told = []
        for what, keys, column in (
            ("user", self.users, self.user),
            ("item", self.items, self.item),
        ):
            whole = {key: key.removesuffix(".0") for key in keys}
            if whole.keys() == set(whole.values()) or not all(map(_is_number, whole.values())):
                continue
            merged: dict[str, int] = {}
            index = [merged.setdefault(key, len(merged)) for key in whole.values()]
            column[:] = array("i", np.array(index, np.int32)[np.array(column)].tobytes())
            example = next(key for key in whole if key.endswith(".0"))
            told.append(f"{what}s such as {example} are read as {whole[example]}")
            keys.clear()
            keys.update(merged)
        return "; ".join(told)

    def raw_data(
        self,
        *,
        name: str,
        format: str,
        user_columns: dict[str, list[str | None]],
        item_columns: dict[str, list[str | None]],
        time_unit: str | None = None,
        rating_scale: tuple[float, float] | None = None,
        source_numbers: list[str] | None = None,
        sources: list[dict[str, Any]] | None = None,
        errors: LineErrors | None = None,
        understood: dict[str, str] | None = None,
        line: Sequence[int] | None = None,
        starts: dict[str, int] | None = None,
    ) -> RawData:
        """Return the collected rows with the users' and items' columns; the others are RawData's.

        The unit of the times is the one that they show, unless `time_unit` says it. UserError when
        their dates can be read in two ways, or `errors` skipped all lines.
        """
        if errors is not None and errors.skipped and not len(self):
            raise UserError(f"no line is left of {errors.skipped:,}; the first is {errors.first}")
        self._flush()
        times = self.times.column(time_unit)
        told = dict(understood or {})
        if time_unit is None:
            told["times"] = times.understood
        if errors is not None and errors.skipped:
            told["lines"] = f"{WARNING}{errors.skipped:,} are left out, the first is {errors.first}"
        return RawData(
            name=name,
            format=format,
            user_keys=list(self.users),
            item_keys=list(self.items),
            user=np.asarray(self.user),
            item=np.asarray(self.item),
            rating=np.asarray(self.rating),
            timestamp=times.values,
            texts=self.texts,
            user_columns=user_columns,
            item_columns=item_columns,
            time_unit=times.unit,
            line=np.asarray(line, np.uint32) if line else np.zeros(len(self), np.uint32),
            rating_scale=rating_scale,
            source_numbers=source_numbers,
            sources=sources or [],
            skipped_lines=errors.skipped if errors else 0,
            understood=told,
            starts=starts or {},
        )


def _numbers(known: dict[str, int], keys: Sequence[str]) -> list[int]:
    """The number of each key; new ones are added to the known."""
    return [known.setdefault(key, len(known)) for key in keys]


def _is_number(key: str) -> bool:
    return key.isascii() and key.isdigit()


def describe_source(path: Path) -> dict[str, Any]:
    """Return path, size in bytes and SHA-256 of a source file, for the manifest."""
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": checksum}


def empty_columns(names: Sequence[str], size: int) -> dict[str, list[str | None]]:
    """Return a column of None for each name."""
    return {name: [None] * size for name in names}
