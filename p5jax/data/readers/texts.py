"""Headlines and texts of rows: the first ones in memory, the others packed in a temporary file."""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyarrow as pa

from p5jax.core.threads import in_threads
from p5jax.data.formats import MEMORY

TEXT = pa.large_string()  # 64-bit offsets: the review text of a category can pass 2 GiB
SCHEMA = pa.schema([("headline", TEXT), ("text", TEXT)])
CHUNK = 50_000  # rows of a batch, at most
KEPT = 0.25  # of the memory that texts may take, this share is of those that need no file
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")


def text_rows(headline: pa.Array, text: pa.Array) -> pa.RecordBatch:
    """Return rows of SCHEMA."""
    return pa.RecordBatch.from_arrays([headline, text], schema=SCHEMA)


@dataclass(frozen=True)
class _Packed:
    """Where in the file a batch is: a compressed Arrow stream."""

    start: int
    length: int


class Texts:
    """The headlines and texts of rows [N], batch by batch in the order in which they are appended.

    Any thread may append and read. size: bytes of all texts, unpacked.
    """

    def __init__(self, memory: float = MEMORY) -> None:
        """memory: GiB that texts may take."""
        self.size = self._in_memory = 0
        self._most = KEPT * memory * 2**30
        # Each batch, where there is any text in it, and which of its rows have one.
        self._batches = list[tuple[pa.RecordBatch | _Packed | None, np.ndarray]]()
        self._lock = threading.Lock()

    @staticmethod
    def of(rows: pa.Table, memory: float = MEMORY) -> Texts:
        """Return the texts of a table of SCHEMA."""
        texts = Texts(memory)
        for batch in rows.to_batches(CHUNK):
            texts.append(batch)
        return texts

    def __len__(self) -> int:
        return sum(len(written) for _, written in self._batches)

    @functools.cached_property
    def _file(self) -> IO[bytes]:
        return tempfile.TemporaryFile()

    @property
    def all_in_memory(self) -> bool:
        """Whether no batch is in the file."""
        return not any(isinstance(rows, _Packed) for rows, _ in self._batches)

    @property
    def written(self) -> np.ndarray:
        """Which rows have a headline or a text, bool [N]."""
        return np.concatenate([np.zeros(0, bool), *(written for _, written in self._batches)])

    @property
    def slices(self) -> list[slice]:
        """Which rows are in each batch."""
        ends = np.cumsum([0, *(len(written) for _, written in self._batches)]).tolist()
        return [slice(first, end) for first, end in itertools.pairwise(ends)]

    def append(self, rows: pa.RecordBatch) -> int:
        """Add rows of SCHEMA behind the others; return the number of their batch."""
        written = np.logical_or(*(np.asarray(column.is_valid()) for column in rows.columns))
        size = rows.nbytes if written.any() else 0
        batch: pa.RecordBatch | _Packed | None = rows if size else None
        if size and self._in_memory + size > self._most:
            batch = self._pack(rows)
        with self._lock:
            self.size += size
            self._in_memory += size if batch is rows else 0
            self._batches.append((batch, written))
            return len(self._batches) - 1

    def _pack(self, rows: pa.RecordBatch) -> _Packed:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA, options=_COMPRESSED) as stream:
            stream.write_batch(rows)
        packed = sink.getvalue()
        with self._lock:
            start = self._file.seek(0, os.SEEK_END)
            self._file.write(packed)
            self._file.flush()
        return _Packed(start, packed.size)

    def batch(self, number: int) -> pa.RecordBatch:
        """Return the rows of a batch."""
        batch, written = self._batches[number]
        if batch is None:
            return text_rows(pa.nulls(len(written), TEXT), pa.nulls(len(written), TEXT))
        if isinstance(batch, _Packed):
            with self._lock:
                self._file.seek(batch.start)
                stream = self._file.read(batch.length)
            return pa.ipc.open_stream(stream).read_next_batch()
        return batch

    def take(self, rows: np.ndarray) -> pa.Table:
        """Return the headlines and texts of some rows [M], in their order."""
        order = np.argsort(rows, kind="stable")
        starts = np.cumsum([0, *(len(written) for _, written in self._batches)])
        bounds = np.searchsorted(rows[order], starts)
        found = [
            self.batch(number).take(pa.array(rows[order[first:end]] - starts[number]))
            for number, (first, end) in enumerate(itertools.pairwise(bounds))
            if first < end
        ]
        place = np.empty(len(rows), np.int64)
        place[order] = np.arange(len(rows))
        return pa.Table.from_batches(found, SCHEMA).combine_chunks().take(pa.array(place))


@dataclass(frozen=True)
class Part:
    """Texts of rows [M] in memory. order: int64 [M], which of the texts each row has."""

    texts: Texts
    order: np.ndarray

    def take(self, rows: np.ndarray) -> pa.Table:
        """Return the headlines and texts of some of the rows, in their order."""
        return self.texts.take(self.order[rows])


@dataclass(frozen=True)
class _Regrouping:
    """Some batches, the rows of them that are wanted, part by part, and where these parts end.

    positions: where each of these rows comes to stand.
    """

    batches: list[int]
    rows: np.ndarray
    bounds: np.ndarray
    positions: np.ndarray


class OrderedTexts:
    """The texts of some rows in a new order, in parts of which one is in memory at a time.

    Texts that are all in memory are one part as they are.
    """

    def __init__(self, texts: Texts, rows: np.ndarray, ends: Sequence[int]) -> None:
        """rows: int64 [M], in the new order, each once; ends: where each part ends, M at last."""
        self._unpacked: tuple[int, Part] | None = None
        self._texts = texts
        self._whole = Part(texts, rows) if texts.all_in_memory else None
        self.ends = [len(rows)] if self._whole else list(ends)
        if self._whole:
            return
        self._store = Texts(0)
        # Of each part: the batches of the store, and where their rows come to stand.
        self._pieces: list[list[tuple[int, np.ndarray]]] = [[] for _ in self.ends]
        for task, numbers in in_threads(self._regrouped, self._regroupings(rows)):
            for part, (first, end) in enumerate(itertools.pairwise(task.bounds)):
                if first < end:
                    self._pieces[part].append((numbers[part], task.positions[first:end]))

    def _regroupings(self, rows: np.ndarray) -> Iterator[_Regrouping]:
        positions = np.full(len(self._texts), -1, np.int32)
        positions[rows] = np.arange(len(rows), dtype=np.int32)
        batches, start = list[int](), 0
        for number, rows_here in enumerate(self._texts.slices):
            batches.append(number)
            if rows_here.stop - start < CHUNK and rows_here.stop < len(positions):
                continue
            here = positions[start : rows_here.stop]
            order = np.argsort(here, kind="stable")
            order = order[np.searchsorted(here[order], 0) :]
            bounds = np.searchsorted(here[order], [0, *self.ends])
            yield _Regrouping(batches, order, bounds, here[order])
            batches, start = [], rows_here.stop

    def _regrouped(self, task: _Regrouping) -> list[int]:
        """Put the wanted rows of each part into the store; return the numbers of their batches."""
        found = pa.Table.from_batches(map(self._texts.batch, task.batches), SCHEMA)
        columns = (column.combine_chunks().take(pa.array(task.rows)) for column in found.columns)
        rows = text_rows(*columns)
        return [
            self._store.append(rows.slice(first, end - first)) if first < end else -1
            for first, end in itertools.pairwise(task.bounds)
        ]

    def part(self, number: int) -> Part:
        """Return a part; it stays in memory until another one is asked for, or `release`."""
        if self._whole:
            return self._whole
        if self._unpacked is None or self._unpacked[0] != number:
            self.release()
            pieces = self._pieces[number]
            texts = Texts(float("inf"))
            for _, rows in in_threads(self._store.batch, (batch for batch, _ in pieces)):
                texts.append(rows)
            positions = np.concatenate([np.zeros(0, np.int32), *(rows for _, rows in pieces)])
            self._unpacked = number, Part(texts, np.argsort(positions))
        return self._unpacked[1]

    def release(self) -> None:
        """Keep no part in memory."""
        self._unpacked = None
