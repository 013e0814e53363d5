"""Parts of a work that are put together: shards of rankings and evaluations, and stored pairs."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from kind import Kind

from p5jax.data.dataset import Dataset
from p5jax.evaluation.merging import merge_evaluations
from p5jax.memory.stored_pairs import stored_pairs
from p5jax.serving.merging import merge_rankings

SHARDS = ("1", "2")


def shard_kinds(worlds: Path) -> list[Kind]:
    def kind(name: str, folder: str, open: Any, reading: Any, below: str = "") -> Kind:
        place = worlds / folder
        found = sorted(file for file in (place / below).rglob("*") if file.is_file())
        files = tuple(str(file.relative_to(place)) for file in found)
        return Kind(name, place, files, open, partial(reading, open(place)))

    return [
        kind("ranking shards", "ranking-shards", _ranking, _ranking_reading),
        kind("evaluation shards", "evaluation-shards", _evaluation, _evaluation_reading),
        kind("pairs", "counted", _pairs, _pairs_reading, below="pairs"),
    ]


def _ranking(folder: Path) -> Any:
    with tempfile.TemporaryDirectory() as out:
        merge_rankings([folder / name for name in SHARDS], out)
        files = sorted(Path(out).glob("*.parquet"))
        return pa.concat_tables(map(pq.read_table, files)).to_pydict()


def _ranking_reading(pristine: Any, folder: Path) -> Any:
    """The rows of both, a part of each by turns; of other columns nothing is said."""
    files = sorted(folder.glob("*/*.parquet"), key=lambda file: file.name)
    return pa.concat_tables(pq.read_table(file) for file in files).to_pydict()


def _evaluation(folder: Path) -> Any:
    with tempfile.TemporaryDirectory() as out:
        results = merge_evaluations([folder / name for name in SHARDS], out)
    return {result.file: result.per_user.to_pydict() for result in results}


def _evaluation_reading(pristine: Any, folder: Path) -> Any:
    """The rows of both by user and item, of the results that the first one names."""
    rows = json.loads((folder / "1" / "summary.json").read_bytes().decode("utf-8-sig"))["results"]
    found = {}
    for file in (row["file"] for row in rows):
        table = pa.concat_tables(pq.read_table(folder / name / file) for name in SHARDS)
        found[file] = table.sort_by([("user", "ascending"), ("item", "ascending")]).to_pydict()
    return found


def _pairs_reading(pristine: Any, folder: Path) -> Any:
    found = np.zeros_like(pristine)
    for row in pq.read_table(folder / "pairs" / "rows-0.parquet").to_pylist():
        found[row["row"], row["item"]] = row["sum"]
    return found


def _pairs(folder: Path) -> Any:
    found = stored_pairs(Dataset.load(folder))
    return None if found is None else found.toarray()
