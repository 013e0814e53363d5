"""The items of a dataset: their table, their vectors and their ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pyarrow as pa

from p5jax.data.item_ids import IdSource, assign_item_ids
from p5jax.data.item_vectors import VECTOR, item_texts, read_item_vectors
from p5jax.data.readers.raw import ITEM_COLUMNS, RawData, describe_source
from p5jax.data.schemes import is_leaky
from p5jax.data.semantic_ids import LEVELS, usual_codes

TEXT_ENCODER = "p5jax.runs.text_encoder:encode_texts"  # imports jax, so only when it is asked for


@dataclass(frozen=True)
class Naming:
    """How items get their ids: a checked choice of `p5jax.data.formats.PrepareOptions`.

    item_vectors: a file of vectors; text_encoder: a T5 that makes them from the items' texts.
    """

    scheme: str = "sequential"
    seed: int = 0
    id_levels: int | None = None
    id_codes: int | None = None
    item_vectors: str | None = None
    text_encoder: str | None = None

    def entry(self, num_items: int) -> dict[str, Any]:
        """Return the manifest's entry on the ids of a catalogue."""
        entry: dict[str, Any] = {"scheme": self.scheme, "seed": self.seed}
        entry["leaky"] = is_leaky(self.scheme)
        if self.scheme == "semantic":
            codes = self.id_codes or usual_codes(num_items)
            entry |= {"levels": self.id_levels or LEVELS, "codes": codes}
        given = self.item_vectors or self.text_encoder
        return entry | ({"vectors": given} if given else {})

    def sources(self) -> list[dict[str, Any]]:
        """Return the manifest's entries on the files that are read for the ids."""
        return [describe_source(Path(self.item_vectors))] if self.item_vectors else []


def items_table(
    raw: RawData, chosen: Sequence[int], train_sequences: Sequence[np.ndarray], naming: Naming
) -> pa.Table:
    """Return the table of the `chosen` items of raw data, with their ids."""
    columns = {
        "item": pa.array(np.arange(len(chosen)), pa.int32()),
        "key": pa.array([raw.item_keys[i] for i in chosen], pa.string()),
    }
    for name in ITEM_COLUMNS:
        columns[name] = pa.array([raw.item_columns[name][i] for i in chosen], pa.string())
    table = pa.table(columns)
    vectors, numbers = _given_vectors(table, naming), raw.source_numbers
    source = IdSource(
        train_sequences,
        len(chosen),
        naming.seed,
        None if numbers is None else [numbers[i] for i in chosen],
        texts=item_texts(table),
        vectors=vectors,
        levels=naming.id_levels,
        codes=naming.id_codes,
    )
    ids = assign_item_ids(naming.scheme, source)
    table = table.append_column("item_id", pa.array(ids, pa.string()))
    if vectors is None:
        return table
    return table.append_column(VECTOR, pa.array(list(vectors), pa.list_(pa.float32())))


def _given_vectors(items: pa.Table, naming: Naming) -> np.ndarray | None:
    """Return the vectors that the user gave or had made, float32 [I, W]."""
    if naming.item_vectors:
        return read_item_vectors(naming.item_vectors, items["key"].to_pylist())
    if naming.text_encoder:
        vectors: np.ndarray = resolve_name(TEXT_ENCODER)(naming.text_encoder, item_texts(items))
        return vectors
    return None
