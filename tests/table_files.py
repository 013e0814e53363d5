"""Tables written by plain Python in every format, and what a reader understood of one."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from p5jax.data.prepare import read_raw

Row = dict[str, Any]


def rows_of(raw) -> list[tuple]:
    """What a reader understood, a tuple for each interaction."""
    return [
        (
            raw.user_keys[user],
            raw.item_keys[item],
            None if math.isnan(rating) else rating,
            time,
            text,
        )
        for user, item, rating, time, text in zip(
            raw.user.tolist(),
            raw.item.tolist(),
            raw.rating.tolist(),
            raw.timestamp.tolist(),
            raw.text.to_pylist(),
            strict=True,
        )
    ]


def read(path: Any, **options: Any):
    return read_raw("table", interactions=path, **options)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def separated(rows: list[Row], delimiter: str, quoting: int, ending: str) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=ending)
    writer.writerow(rows[0])
    writer.writerows([["" if cell is None else cell for cell in row.values()] for row in rows])
    return out.getvalue().encode()


def arrow(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows)


def parquet(rows: list[Row]) -> bytes:
    out = io.BytesIO()
    pq.write_table(arrow(rows), out, row_group_size=2)
    return out.getvalue()


def ipc(rows: list[Row], new) -> bytes:
    sink = pa.BufferOutputStream()
    table = arrow(rows)
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue().to_pybytes()


FORMATS = {
    "comma": lambda rows: separated(rows, ",", csv.QUOTE_MINIMAL, "\n"),
    "all quoted": lambda rows: separated(rows, ",", csv.QUOTE_ALL, "\r\n"),
    "mark": lambda rows: b"\xef\xbb\xbf" + separated(rows, ",", csv.QUOTE_MINIMAL, "\r\n"),
    "semicolon": lambda rows: separated(rows, ";", csv.QUOTE_NONNUMERIC, "\r\n"),
    "bar": lambda rows: separated(rows, "|", csv.QUOTE_MINIMAL, "\n"),
    "tab": lambda rows: separated(rows, "\t", csv.QUOTE_ALL, "\n"),
    "json": lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode(),
    "literal": lambda rows: "".join(f"{row!r}\n" for row in rows).encode(),
    "parquet": parquet,
    "arrow file": lambda rows: ipc(rows, pa.ipc.new_file),
    "arrow stream": lambda rows: ipc(rows, pa.ipc.new_stream),
}
