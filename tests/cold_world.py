"""Datasets in memory from users' sequences, for the cold-start tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from p5jax.data.dataset import Dataset


def dataset_of(
    sequences: Sequence[Sequence[int]],
    num_items: int,
    attributes: Mapping[str, Sequence[str | None]] | None = None,
    keys: Sequence[str] | None = None,
) -> Dataset:
    """A dataset whose user u has the items sequences[u], in this order, under the key "u<u>"."""
    count = len(sequences)
    lengths = [len(sequence) for sequence in sequences]
    nothing = pa.nulls(num_items, pa.string())
    users = {
        "user": pa.array(range(count), pa.int32()),
        "key": pa.array(keys or [f"u{u}" for u in range(count)], pa.string()),
        "name": pa.nulls(count, pa.string()),
        **{name: pa.array(values, pa.string()) for name, values in (attributes or {}).items()},
    }
    numbers = [str(item + 1) for item in range(num_items)]
    items = {
        "item": pa.array(range(num_items), pa.int32()),
        "key": pa.array([f"i{item}" for item in range(num_items)], pa.string()),
        **dict.fromkeys(("title", "brand", "categories", "price"), nothing),
        "item_id": pa.array(numbers, pa.string()),
    }
    from_end = np.concatenate([np.arange(length)[::-1] for length in lengths])
    interactions = {
        "user": pa.array(np.repeat(np.arange(count), lengths), pa.int32()),
        "item": pa.array([item for sequence in sequences for item in sequence], pa.int32()),
        "timestamp": pa.array([t for length in lengths for t in range(length)], pa.int64()),
        "split": pa.array(np.select([from_end == 0, from_end == 1], [2, 1], 0), pa.int8()),
    }
    tables = {"users": users, "items": items, "interactions": interactions, "reviews": {}}
    manifest = {
        "name": "cold",
        "protocol": {},
        "item_ids": {"scheme": "sequential", "leaky": False},
        "tables": dict.fromkeys(tables, "in memory"),
    }
    made = {name: pa.table(columns) for name, columns in tables.items()}
    return Dataset(Path("cold"), manifest, made)
