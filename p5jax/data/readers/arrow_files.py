"""Parquet and Arrow files, and tables in memory that other libraries hand over."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from p5jax.core.errors import UserError, in_words, shown
from p5jax.data.formats import ArrowTable
from p5jax.data.readers.lines import with_progress
from p5jax.data.readers.table_file import TableFile, TablePart, TableRow

PARQUET, FEATHER, STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"  # how files begin
BATCH = 1 << 16  # rows that are looked at at once
IN_MEMORY = Path("table in memory")  # what messages call it
_WRONG = (OSError, ValueError, KeyError, TypeError, pa.ArrowException)
_Batches = Callable[[Sequence[str]], Iterable[pa.RecordBatch]]


def open_arrow_file(path: Path, what: str) -> TableFile | None:
    """Open a file of Parquet or Arrow; None for one that does not begin so.

    UserError when it is damaged.
    """
    with _told(path, what):
        with path.open("rb") as opened:
            start = opened.read(8)
        if start.startswith(PARQUET):
            file = pq.ParquetFile(path, page_checksum_verification=True)

            def parts(columns: Sequence[str]) -> Iterable[pa.RecordBatch]:
                batches: Iterable[pa.RecordBatch] = file.iter_batches(BATCH, columns=columns)
                return batches

            return _table_file(path, "Parquet", file.schema_arrow, what, parts)
        if start.startswith(FEATHER):
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
            return _table_file(path, "Arrow", reader.schema, what, lambda columns: batches)
        if start.startswith(STREAM):
            stream = pa.ipc.open_stream(pa.memory_map(str(path)))
            return _table_file(path, "Arrow", stream.schema, what, lambda columns: stream)
    return None


def arrow_table(table: ArrowTable, what: str) -> pa.Table:
    """Return a table of another library as Arrow's; UserError when Arrow has no such."""
    with _told(IN_MEMORY, what):
        return pa.table(table)


def open_in_memory(table: pa.Table, what: str) -> TableFile:
    """Open a table in memory."""
    return _table_file(
        IN_MEMORY, str(IN_MEMORY), table.schema, what, lambda columns: table.to_batches(BATCH)
    )


def describe_in_memory(table: pa.Table) -> dict[str, Any]:
    """Return the manifest's entry on a table: the size and the SHA-256 of its Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    data = memoryview(sink.getvalue())
    return {"path": str(IN_MEMORY), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _table_file(
    path: Path, form: str, schema: pa.Schema, what: str, batches: _Batches
) -> TableFile:
    repeated = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{path}: found column {shown(repeated)} twice, expected it once")

    def parts(columns: Sequence[str]) -> Iterator[TablePart]:
        first = 1
        with _told(path, what):
            for batch in with_progress(batches(columns), path.name, "rows", BATCH):
                batch.validate(full=True)
                found = [batch.column(name) for name in columns]
                rows = functools.partial(_rows, path, first, found)
                yield TablePart(path, first, rows, functools.partial(list, found))
                first += batch.num_rows

    return TableFile(path, form, schema.names, parts)


def _rows(path: Path, first: int, columns: Sequence[pa.Array]) -> Iterator[TableRow]:
    for number, cells in enumerate(zip(*map(values_of, columns), strict=True), first):
        yield path, number, cells


def values_of(column: pa.Array) -> list[Any]:
    """Return a column's values as Python's; moments and days as ISO 8601, to the last digit."""
    if pa.types.is_timestamp(column.type) and column.type.tz:
        column = column.cast(pa.timestamp(column.type.unit, "UTC"))
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.string())
    values: list[Any] = column.to_pylist()
    return values


@contextlib.contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """Within it, an error of Arrow is a UserError on the file."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, expected {what}") from None
    except _WRONG as error:
        cause = in_words(error)[:160] or type(error).__name__
        raise UserError(f"{path}: found {cause}; expected {what}") from error
