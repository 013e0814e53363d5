"""The reviews of a dataset: without copies, with explanations, part by part."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from p5jax.data.dataset import COLUMNS, ROW_GROUP, TRAIN
from p5jax.data.explanations import BATCH, explained
from p5jax.data.feature_words import EXTRACTED, extract_feature_words, sample_step
from p5jax.data.readers.raw import RawData
from p5jax.data.readers.texts import SCHEMA, TEXT, OrderedTexts, Part

SHARE = 8  # a part is this share of the memory that texts may take
PIECE = 20_000  # rows of a piece of a column that was not in the source


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

    def _in_parts(self, rows: np.ndarray) -> Iterator[tuple[Part, np.ndarray]]:
        """Yield each part that has some of these rows, ascending [M], and where in it they are."""
        for number, (first, end) in enumerate(itertools.pairwise([0, *self._texts.ends])):
            here = rows[slice(*np.searchsorted(rows, (first, end)))] - first
            if len(here):
                yield self._texts.part(number), here

    def _copies(self, user: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
        """Return which reviews [N] repeat an earlier one."""
        again = (np.diff(user) == 0) & (np.diff(timestamp) == 0)
        near = np.flatnonzero(np.r_[False, again] | np.r_[again, False])
        copied, start = np.zeros(len(user), bool), 0
        for part, rows in self._in_parts(near):
            at = near[start : start + len(rows)]
            copied[at] = _repeats(user[at], timestamp[at], part.take(rows))
            start += len(rows)
        return copied

    def _sample(self, rows: np.ndarray) -> pa.ChunkedArray:
        """Return the texts of reviews [N], or about SAMPLE of them at regular distances."""
        rows = rows[:: sample_step(len(rows))]
        found = [part.take(here)["text"] for part, here in self._in_parts(rows)]
        return pa.chunked_array([chunk for each in found for chunk in each.chunks], TEXT)

    def _batches(self, rows: np.ndarray) -> Iterator[Callable[[], pa.Table]]:
        """Yield what returns the texts of these rows, BATCH at a time."""
        for start in range(0, max(1, len(rows)), BATCH):
            yield functools.partial(_taken, [*self._in_parts(rows[start : start + BATCH])])
        self._texts.release()

    def tables(self) -> Iterator[pa.Table]:
        """Yield the table's rows, ROW_GROUP at a time; a table without rows where there are none.

        The pieces of a column are as long whatever the parts are, for Parquet files differ by them:
        those of PIECE rows for what is found, and as from one piece for what was said, which any
        pieces are that are a multiple of 1,024 rows.
        """
        kept = np.flatnonzero(~self._copied)
        found, at = explained(self._batches(kept), self._words), 0
        for table in _cut(found, ROW_GROUP):
            rows = self._pairs.take(pa.array(kept[at : at + table.num_rows]))
            for name in table.column_names:
                column = table[name] if name in SCHEMA.names else _in_pieces(table[name], at)
                rows = rows.append_column(name, column)
            at += table.num_rows
            del table, column  # here and below: no group is kept while the next one is made
            yield rows
            del rows


def _taken(rows: Sequence[tuple[Part, np.ndarray]]) -> pa.Table:
    """The texts of rows of parts, in one piece."""
    found = [part.take(here) for part, here in rows]
    return pa.concat_tables([SCHEMA.empty_table(), *found]).combine_chunks()


def _in_pieces(column: pa.ChunkedArray, start: int) -> pa.ChunkedArray:
    """The column from its row `start` on, cut where all of it is cut."""
    whole = column.combine_chunks()
    bounds = [0, *range(PIECE - start % PIECE, len(whole), PIECE), len(whole)]
    pieces = [whole.slice(first, end - first) for first, end in itertools.pairwise(bounds)]
    return pa.chunked_array(pieces, column.type)


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
