"""Headlines and texts of rows, packed in a temporary file, so that few are in memory at once."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from p5jax.core.threads import in_threads

TEXT = pa.large_string()  # 64-bit offsets: the review text of a category can pass 2 GiB
SCHEMA = pa.schema([("headline", TEXT), ("text", TEXT)])
CHUNK = 50_000  # rows of a batch, at most
IN_MEMORY = 1 << 26  # bytes of packed texts that need no file
_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True)
class Packed:
    """Headlines and texts of rows [N]: a compressed Arrow stream, empty where no row has any.

    written: bool [N], the rows that have one; size: bytes of the texts when they are unpacked.
    """

    written: np.ndarray
    size: int
    stream: bytes

    @staticmethod
    def of(rows: pa.RecordBatch) -> Packed:
        """Pack rows of SCHEMA."""
        written = np.logical_or(*(np.asarray(column.is_valid()) for column in rows.columns))
        if not written.any():
            return Packed(written, 0, b"")
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA, options=_COMPRESSED) as stream:
            stream.write_batch(rows)
        return Packed(written, rows.nbytes, sink.getvalue().to_pybytes())

    def unpacked(self) -> pa.RecordBatch:
        """Return the rows."""
        if self.stream:
            return pa.ipc.open_stream(self.stream).read_next_batch()
        return text_rows(pa.nulls(len(self.written), TEXT), pa.nulls(len(self.written), TEXT))


def text_rows(headline: pa.Array, text: pa.Array) -> pa.RecordBatch:
    """Return rows of SCHEMA."""
    return pa.RecordBatch.from_arrays([headline, text], schema=SCHEMA)


class Texts:
    """The headlines and texts of rows, batch by batch in the order in which they are appended."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - kept, gone with this
        self._places = list[int]()  # where the batches begin
        self._lengths, self._sizes = list[int](), list[int]()  # their bytes, packed and unpacked
        self._written = list[np.ndarray]()

    @staticmethod
    def of(rows: pa.Table) -> Texts:
        """Return the texts of a table of SCHEMA."""
        texts = Texts()
        for batch in rows.to_batches(CHUNK):
            texts.append(Packed.of(batch))
        return texts

    def __len__(self) -> int:
        return sum(map(len, self._written))

    @property
    def size(self) -> int:
        """The bytes of all texts, unpacked."""
        return sum(self._sizes)

    @property
    def num_batches(self) -> int:
        """How many batches there are."""
        return len(self._places)

    @property
    def written(self) -> np.ndarray:
        """Which rows have a headline or a text, bool [N]."""
        return np.concatenate([np.zeros(0, bool), *self._written])

    def append(self, rows: Packed) -> None:
        """Add rows behind the others."""
        self._places.append(self._file.seek(0, 2))
        self._lengths.append(self._file.write(rows.stream))
        self._sizes.append(rows.size)
        self._written.append(rows.written)

    def batch(self, number: int) -> Packed:
        """Return a batch."""
        self._file.seek(self._places[number])
        stream = self._file.read(self._lengths[number])
        return Packed(self._written[number], self._sizes[number], stream)

    def take(self, rows: np.ndarray) -> pa.Table:
        """Return the headlines and texts of some rows [M], in their order."""
        order = np.argsort(rows, kind="stable")
        starts = np.cumsum([0, *map(len, self._written)])
        bounds = np.searchsorted(rows[order], starts)
        found = [
            self.batch(number).unpacked().take(pa.array(rows[order[first:end]] - starts[number]))
            for number, (first, end) in enumerate(itertools.pairwise(bounds))
            if first < end
        ]
        return pa.Table.from_batches(found, SCHEMA).take(np.argsort(order))


@dataclass(frozen=True)
class _Regrouping:
    """A batch, the rows of it that are wanted, part by part, and where these parts end.

    positions: where each of these rows comes to stand.
    """

    batch: Packed
    rows: np.ndarray
    bounds: np.ndarray
    positions: np.ndarray


class OrderedTexts:
    """The texts of some rows in a new order, in parts of which one is in memory at a time."""

    def __init__(self, texts: Texts, rows: np.ndarray, ends: Sequence[int]) -> None:
        """rows: int64 [M], in the new order, each once; ends: where each part ends, M at last."""
        self.ends = list(ends)
        self._store = Texts()
        # Of each part: the batches of the store, and where their rows come to stand.
        self._pieces: list[list[tuple[int, np.ndarray]]] = [[] for _ in self.ends]
        for task, found in in_threads(_regrouped, self._regroupings(texts, rows)):
            bounds = itertools.pairwise(task.bounds)
            for part, ((first, end), piece) in enumerate(zip(bounds, found, strict=True)):
                if piece is not None:
                    place = (self._store.num_batches, task.positions[first:end])
                    self._pieces[part].append(place)
                    self._store.append(piece)

    def _regroupings(self, texts: Texts, rows: np.ndarray) -> Iterator[_Regrouping]:
        position = np.full(len(texts) if len(rows) else 0, -1, np.int32)
        position[rows] = np.arange(len(rows), dtype=np.int32)
        start = 0
        for number in range(texts.num_batches if len(rows) else 0):
            batch = texts.batch(number)
            here = position[start : start + len(batch.written)]
            start += len(here)
            order = np.argsort(here, kind="stable")
            order = order[np.searchsorted(here[order], 0) :]
            if len(order):
                bounds = np.searchsorted(here[order], [0, *self.ends])
                yield _Regrouping(batch, order, bounds, here[order])

    def part(self, number: int) -> pa.Table:
        """Return the rows of a part."""
        pieces = self._pieces[number]
        found = [self._store.batch(batch).unpacked() for batch, _ in pieces]
        positions = np.concatenate([np.zeros(0, np.int32), *(rows for _, rows in pieces)])
        return pa.Table.from_batches(found, SCHEMA).take(np.argsort(positions))


def _regrouped(task: _Regrouping) -> list[Packed | None]:
    """Return the wanted rows of each part, None where there are none."""
    rows = task.batch.unpacked().take(pa.array(task.rows))
    return [
        Packed.of(rows.slice(first, end - first)) if first < end else None
        for first, end in itertools.pairwise(task.bounds)
    ]
