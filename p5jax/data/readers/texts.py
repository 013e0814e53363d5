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

    def slices(self) -> list[slice]:
        """Return which rows each batch has."""
        ends = np.cumsum([0, *map(len, self._written)]).tolist()
        return [slice(first, end) for first, end in itertools.pairwise(ends)]

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
class Part:
    """Texts of rows [M], unpacked. table: of them and others; order: int64 [M], where each is."""

    table: pa.Table
    order: np.ndarray

    def take(self, rows: np.ndarray) -> pa.Table:
        """Return the headlines and texts of some of the rows, in their order."""
        return self.table.take(pa.array(self.order[rows]))


@dataclass(frozen=True)
class _Regrouping:
    """Some batches, the rows of them that are wanted, part by part, and where these parts end.

    positions: where each of these rows comes to stand.
    """

    batches: list[Packed]
    rows: np.ndarray
    bounds: np.ndarray
    positions: np.ndarray


class OrderedTexts:
    """The texts of some rows in a new order, in parts of which one is in memory at a time."""

    def __init__(self, texts: Texts, rows: np.ndarray, ends: Sequence[int]) -> None:
        """rows: int64 [M], in the new order, each once; ends: where each part ends, M at last."""
        self.ends = list(ends)
        # Of each part: the batches of the store, and where their rows come to stand.
        self._pieces: list[list[tuple[int, np.ndarray]]] = [[] for _ in self.ends]
        self._unpacked: tuple[int, Part] | None = None
        positions = np.full(len(texts), -1, np.int32)
        positions[rows] = np.arange(len(rows), dtype=np.int32)
        if len(self.ends) == 1:
            self._store = texts
            self._pieces[0] = [(n, positions[rows]) for n, rows in enumerate(texts.slices())]
            return
        self._store = Texts()
        for task, found in in_threads(_regrouped, self._regroupings(texts, positions)):
            bounds = itertools.pairwise(task.bounds)
            for part, ((first, end), piece) in enumerate(zip(bounds, found, strict=True)):
                if piece is not None:
                    place = (self._store.num_batches, task.positions[first:end])
                    self._pieces[part].append(place)
                    self._store.append(piece)

    def _regroupings(self, texts: Texts, positions: np.ndarray) -> Iterator[_Regrouping]:
        batches, start = list[Packed](), 0
        for number, rows in enumerate(texts.slices()):
            batches.append(texts.batch(number))
            if rows.stop - start < CHUNK and rows.stop < len(texts):
                continue
            here = positions[start : rows.stop]
            order = _wanted(here)
            bounds = np.searchsorted(here[order], [0, *self.ends])
            yield _Regrouping(batches, order, bounds, here[order])
            batches, start = [], rows.stop

    def part(self, number: int) -> Part:
        """Return a part; it stays in memory until another one is asked for, or `release`."""
        if self._unpacked is None or self._unpacked[0] != number:
            self.release()
            batches = (self._store.batch(batch) for batch, _ in self._pieces[number])
            found = [rows for _, rows in in_threads(Packed.unpacked, batches)]
            table = pa.Table.from_batches(found, SCHEMA).combine_chunks()
            places = [np.zeros(0, np.int32), *(rows for _, rows in self._pieces[number])]
            self._unpacked = number, Part(table, _wanted(np.concatenate(places)))
        return self._unpacked[1]

    def release(self) -> None:
        """Keep no part in memory."""
        self._unpacked = None


def _wanted(positions: np.ndarray) -> np.ndarray:
    """Which rows come to stand anywhere, those with a position, by their positions."""
    order = np.argsort(positions, kind="stable")
    return order[np.searchsorted(positions[order], 0) :]


def _regrouped(task: _Regrouping) -> list[Packed | None]:
    """Return the wanted rows of each part, None where there are none."""
    table = pa.Table.from_batches([batch.unpacked() for batch in task.batches], SCHEMA)
    columns = (column.combine_chunks().take(pa.array(task.rows)) for column in table.columns)
    rows = text_rows(*columns)
    return [
        Packed.of(rows.slice(first, end - first)) if first < end else None
        for first, end in itertools.pairwise(task.bounds)
    ]
