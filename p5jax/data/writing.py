"""Writing a dataset folder: tables as Parquet, then the manifest."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from p5jax.core.errors import UserError
from p5jax.core.files import checksum, replaced_folder
from p5jax.core.lock import LOCK
from p5jax.data.dataset import DATASET_FOLDER, TABLES


def write_dataset(
    out: str | os.PathLike[str],
    *,
    name: str,
    format: str,
    sources: list[dict[str, Any]],
    protocol: dict[str, Any],
    counts: dict[str, int],
    users: pa.Table,
    items: pa.Table,
    interactions: pa.Table,
    reviews: pa.Table | Iterable[pa.Table],
    item_ids: dict[str, Any],
    understood: dict[str, str] | None = None,
) -> dict[str, int]:
    """Write a dataset folder beside `out`, then rename it there; an existing dataset is replaced.

    `item_ids` holds scheme, seed and leaky; `sources` path, bytes and sha256 of each raw file;
    `understood` is RawData's. Reviews may come in tables of ROW_GROUP rows, the last of fewer.
    Returns the counts, those of reviews and explanations among them.
    UserError when `out` is anything but a dataset folder.
    """
    out = Path(out).absolute()
    ours = {LOCK, DATASET_FOLDER.manifest, *(f"{table}.parquet" for table in TABLES)}
    if out.is_file() or any(child.name not in ours for child in out.glob("*")):
        raise UserError(f"{out}: exists and is not a dataset folder; choose another folder")
    with replaced_folder(out) as partial:
        for table_name, table in zip(TABLES, (users, items, interactions), strict=False):
            pq.write_table(table, partial / f"{table_name}.parquet", compression="zstd")
        counts = counts | _write_reviews(partial / "reviews.parquet", reviews)
        manifest = {
            "name": name,
            "format": format,
            "sources": sources,
            "protocol": protocol,
            "item_ids": item_ids,
            "counts": counts,
            "understood": understood or {},
            "tables": {table: checksum(partial / f"{table}.parquet") for table in TABLES},
        }
        DATASET_FOLDER.write(partial, manifest)
    return counts


def _write_reviews(file: Path, reviews: pa.Table | Iterable[pa.Table]) -> dict[str, int]:
    """Write the reviews; return how many there are, and how many have an explanation."""
    tables = iter((reviews,) if isinstance(reviews, pa.Table) else reviews)
    table = next(tables)
    rows = explanations = 0
    with pq.ParquetWriter(file, table.schema, compression="zstd") as writer:
        while table is not None:
            writer.write_table(table)
            rows += table.num_rows
            explanations += table.num_rows - table["sentence"].null_count
            table = None  # or it stays in memory while the next one is made
            table = next(tables, None)
    return {"reviews": rows, "explanations": explanations}
