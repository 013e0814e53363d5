"""What stands near what in training sequences, counted once: the folder `pairs` of a dataset.

A file holds some rows of the matrix of memory.neighbours.pairs, an entry a row: its row and item,
int32, and its sum, float64. The folder is whole when all files are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from p5jax.core.errors import UserError
from p5jax.core.folder import OutputFolder, refuse_difference
from p5jax.core.kinds import Checksum
from p5jax.core.lock import released
from p5jax.core.progress import Progress, Report, print_progress
from p5jax.core.tables import read_parquet, write_parquet
from p5jax.data.dataset import Dataset
from p5jax.memory.neighbours import pairs


class _Manifest(TypedDict):
    dataset: Checksum


PAIRS_FOLDER = OutputFolder(
    "folder of pairs", "manifest.json", 1, "p5jax data count-pairs", contents=_Manifest
)
ROWS = 1 << 14  # of a file
_SCHEMA = pa.schema(
    [pa.field(name, pa.int32(), False) for name in ("row", "item")]
    + [pa.field("sum", pa.float64(), False)]
)


@released()
def count_pairs(
    dataset: Dataset,
    write: Callable[[Mapping[Path, range]], None] | None = None,
    report: Report = print_progress,
) -> Path:
    """Count a dataset's pairs into its folder `pairs`, and return that.

    Files that are there are not written again; the others by `write`, or else here.
    """
    folder, manifest = dataset.path / "pairs", {"dataset": dataset.fingerprint}
    if PAIRS_FOLDER.claim(folder, manifest) is None:
        PAIRS_FOLDER.write(folder, manifest)
    parts = _parts(dataset)
    waiting = {file: rows for file, rows in parts.items() if not file.is_file()}
    if write is not None:
        write(waiting)
        return folder
    done = sum(map(len, parts.values())) - sum(map(len, waiting.values()))
    progress = Progress("pairs", "items", dataset.num_items, report, done)
    for file, rows in waiting.items():
        write_rows(dataset, file, rows)
        progress.add(len(rows))
    return folder


def write_rows(dataset: Dataset, file: Path, rows: range) -> None:
    """Count some rows of the matrix and write them to a file."""
    found = sp.coo_array(pairs(dataset, rows))
    order = np.lexsort((found.col, found.row))
    columns = found.row.astype(np.int32), found.col.astype(np.int32), found.data
    write_parquet(file, pa.table([column[order] for column in columns], _SCHEMA))


def stored_pairs(dataset: Dataset) -> sp.csr_array | None:
    """Return what pairs of memory.neighbours would, None where it was not counted to the end.

    UserError for a damaged folder, and for another dataset's.
    """
    parts, size = _parts(dataset), dataset.num_items
    folder = dataset.path / "pairs"
    if not PAIRS_FOLDER.is_at(folder) or not all(file.is_file() for file in parts):
        return None
    there = PAIRS_FOLDER.read(folder)
    refuse_difference(folder / PAIRS_FOLDER.manifest, there, {"dataset": dataset.fingerprint})
    columns = []
    for file, rows in parts.items():
        table = read_parquet(file, _SCHEMA, "pairs; delete it and count them again")
        row, item, values = (table[name].to_numpy() for name in _SCHEMA.names)
        numbers = row.astype(np.int64) * size + item
        ascending = np.r_[rows.start * size - 1, numbers, rows.stop * size]
        sound = (np.diff(ascending) > 0).all() and ((item >= 0) & (item < size)).all()
        if not sound or not ((values > 0) & np.isfinite(values)).all():
            raise UserError(
                f"{file}: found other pairs than of rows {rows.start} to {rows.stop - 1}, in order,"
                f" and of {size} items; delete it and count the pairs again"
            )
        columns.append((row, item, values))
    row, item, values = (np.concatenate(each) for each in zip(*columns, strict=True))
    starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=size))])
    return sp.csr_array((values, item.astype(np.int32), starts), shape=(size, size))


def _parts(dataset: Dataset) -> dict[Path, range]:
    """The files, and which rows each holds."""
    folder, count = dataset.path / "pairs", dataset.num_items
    starts = range(0, count, ROWS)
    return {
        folder / f"rows-{start}.parquet": range(start, min(start + ROWS, count)) for start in starts
    }
