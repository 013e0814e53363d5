"""The reviews of a dataset: without copies, with explanations, part by part."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from p5jax.data.dataset import COLUMNS, ROW_GROUP, TRAIN
from p5jax.data.explanations import BATCH, explained
from p5jax.data.feature_words import EXTRACTED, extract_feature_words, sample_step
from p5jax.data.readers.raw import RawData
from p5jax.data.readers.texts import SCHEMA, TEXT, OrderedTexts

SHARE = 8  # a part is this share of the memory that texts may take


class ReviewsTable:
    """The reviews table of a dataset, made part by part.

    copies: the number of reviews left out because they repeat one of the same user and time on
    another item. Shops show one review under every variant of an item. The interactions are kept,
    but a held-out review must not be a copy of a training review. features: the manifest's entry.
    """

    def __init__(
        self, raw: RawData, rows: np.ndarray, interactions: pa.Table, memory: float
    ) -> None:
        """rows: int64 [N], the raw row of each of the interactions. memory: GiB of texts."""
        written = np.flatnonzero(raw.texts.written[rows])
        self._pairs = interactions.select(COLUMNS["interactions"].names).take(written)
        user, timestamp, split = (
            self._pairs[name].to_numpy() for name in ("user", "timestamp", "split")
        )
        bytes_each = raw.texts.size / max(1, int(raw.texts.written.sum()))
        most = max(1, int(memory * 2**30 / SHARE / max(1, bytes_each)))
        self._texts = OrderedTexts(raw.texts, rows[written], _ends(user, most))
        self._copied = self._copies(user, timestamp)
        self.copies = int(self._copied.sum())
        training = np.flatnonzero((split == TRAIN) & ~self._copied)
        given = raw.feature_words
        self._words = extract_feature_words(self._sample(training)) if given is None else given
        source = EXTRACTED if given is None else "given"
        self.features: dict[str, Any] = {"source": source, "count": len(self._words)}

    def _parts(self) -> Iterator[tuple[int, slice]]:
        """Yield each part's number and rows."""
        ends = self._texts.ends
        for number, (first, end) in enumerate(itertools.pairwise([0, *ends])):
            yield number, slice(first, end)

    def _copies(self, user: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
        """Return which reviews [N] repeat an earlier one."""
        again = (np.diff(user) == 0) & (np.diff(timestamp) == 0)
        near = np.r_[False, again] | np.r_[again, False]
        copied = np.zeros(len(user), bool)
        for number, rows in self._parts():
            candidates = np.flatnonzero(near[rows])
            if len(candidates):
                found = self._texts.part(number).take(candidates)
                at = candidates + rows.start
                copied[at] = _repeats(user[at], timestamp[at], found)
        return copied

    def _sample(self, rows: np.ndarray) -> pa.ChunkedArray:
        """Return the texts of reviews [N], or about SAMPLE of them at regular distances."""
        rows = rows[:: sample_step(len(rows))]
        found = list[pa.ChunkedArray]()
        for number, part in self._parts():
            here = rows[slice(*np.searchsorted(rows, (part.start, part.stop)))] - part.start
            if len(here):
                found.append(self._texts.part(number)["text"].take(here))
        return pa.chunked_array([chunk for each in found for chunk in each.chunks], TEXT)

    def _without_copies(self, number: int, rows: slice) -> pa.Table:
        part, copied = self._texts.part(number), self._copied[rows]
        return part.filter(pa.array(~copied)) if copied.any() else part

    def tables(self) -> Iterator[pa.Table]:
        """Yield the table's rows, ROW_GROUP at a time; a table without rows where there are none.

        The pieces of a column are as long whatever the parts are, for Parquet files differ by them.
        """
        kept = self._pairs.filter(pa.array(~self._copied))
        texts = (self._without_copies(*part) for part in self._parts())
        found = explained(_cut(texts, BATCH), self._words)
        at = 0
        for table in _cut(found, ROW_GROUP):
            rows = kept.slice(at, table.num_rows)
            at += table.num_rows
            for name in table.column_names:
                column = table[name]
                if name in SCHEMA.names:
                    column = column.combine_chunks()
                rows = rows.append_column(name, column)
            del table, column  # here and below: no group is kept while the next one is made
            yield rows
            del rows


def _ends(user: np.ndarray, most: int) -> list[int]:
    """Return where parts of about `most` rows end, none within the rows of a user."""
    inside = np.searchsorted(user, user[most::most])
    return [*np.unique(inside).tolist(), len(user)]


def _repeats(user: np.ndarray, timestamp: np.ndarray, texts: pa.Table) -> np.ndarray:
    """Return which reviews [N] are equal to an earlier one of the same user and time."""
    seen: set[tuple[int, int, str | None, str]] = set()
    copied = np.zeros(len(user), bool)
    columns = (user.tolist(), timestamp.tolist(), *(c.to_pylist() for c in texts.columns))
    for position, review in enumerate(zip(*columns, strict=True)):
        if review[3]:
            copied[position] = review in seen
            seen.add(review)
    return copied


def _cut(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the rows of tables in tables of `rows` rows, the last of what is left; one or more."""
    waiting: list[pa.Table] = []
    length = cut = 0
    for table in tables:
        waiting.append(table)
        length += table.num_rows
        del table
        while length >= rows:
            whole = pa.concat_tables(waiting)
            waiting = [whole.slice(rows)]
            whole = whole.slice(0, rows)
            yield whole
            del whole
            cut += 1
            length -= rows
    if length or not cut:
        yield pa.concat_tables(waiting)
