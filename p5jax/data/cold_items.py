"""A dataset without some of its items, and what becomes known of these items later.

Which items are cold is decided by a hash of their keys. Everything that a model learns from is made
again without them: interactions, splits, stars, feature words and ids.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from p5jax.core.errors import UserError
from p5jax.core.settings import COUNT, PROPER_SHARE, SIZE, check
from p5jax.data.building import EVENTS_NEEDED, build_dataset
from p5jax.data.dataset import SOURCE_RATING, TRAIN, Dataset
from p5jax.data.held_out import own_interactions
from p5jax.data.readers.raw import ITEM_COLUMNS, RawData
from p5jax.data.readers.texts import SCHEMA, Texts


@dataclass(frozen=True)
class ColdItemsConfig:
    """Which items are kept from a model, and how it is measured on them.

    share: of the items. interactions: how many of each cold item, its first of the training split,
    are told when it joins; the model is measured once for each number. limit: users with a cold
    item to predict, and as many others, at most (default: all). prompt: for a next item, None for
    the usual one.
    """

    share: float = field(default=0.1, metadata={"help": "share of the items that are cold"})
    seed: int = field(default=0, metadata={"help": "of which items these are"})
    interactions: tuple[int, ...] = field(
        default=(0, 3),
        metadata={"metavar": "N", "help": "interactions of each cold item that are told"},
    )
    limit: int | None = field(
        default=None, metadata={"help": "users of each kind that are measured (default: all)"}
    )
    prompt: str | None = field(
        default=None,
        metadata={"metavar": "ID", "help": "prompt for a next item (default: the usual one)"},
    )

    def __post_init__(self) -> None:
        check(self, share=PROPER_SHARE, interactions=COUNT, limit=SIZE)


def are_cold(dataset: Dataset, config: ColdItemsConfig) -> np.ndarray:
    """Return which items are cold, bool [I]: the same ones wherever their keys are the same."""
    hashes = (hashlib.sha256(f"{config.seed} {key}".encode()) for key in dataset.item_keys)
    numbers = np.array([int.from_bytes(each.digest()[:8]) for each in hashes], np.float64)
    return np.asarray(numbers / 2.0**64 < config.share)


def write_without(dataset: Dataset, cold: np.ndarray, out: str | os.PathLike[str]) -> None:
    """Write the dataset as it would have been prepared without its cold items, bool [I].

    Users who have fewer than three interactions left are left out. UserError for ids that only the
    source has, for given item vectors and for a split by time.
    """
    ids, protocol = dataset.manifest["item_ids"], dataset.manifest["protocol"]
    if dataset.leaky or dataset.given_vectors is not None:
        found = "given item vectors" if not dataset.leaky else f"item ids {dataset.id_scheme!r}"
        raise UserError(f"{dataset.path}: found {found}, expected ids that are made from training")
    if dataset.cuts:
        raise UserError(f"{dataset.path}: found a split by time, expected leave-one-out")
    users = dataset.interactions["user"].to_numpy()
    kept = ~cold[dataset.sequence_items]
    enough = np.bincount(users[kept], minlength=dataset.num_users) >= EVENTS_NEEDED
    ratings = protocol.get("ratings", {"scale": None, "how": ""})
    build_dataset(
        _raw(dataset, np.flatnonzero(kept & enough[users])),
        out,
        k_core=1,
        scheme=dataset.id_scheme,
        seed=ids["seed"],
        rating_scale=ratings["scale"],
        ratings=ratings["how"] != "left out",
        id_levels=ids.get("levels"),
        id_codes=ids.get("codes"),
    )


def told_later(dataset: Dataset, cold: np.ndarray, interactions: int) -> RawData:
    """Return the cold items, bool [I], and the first training interactions with each."""
    training = dataset.interactions["split"].to_numpy() == TRAIN
    rows = np.flatnonzero(training & cold[dataset.sequence_items])
    times = dataset.interactions["timestamp"].to_numpy()[rows]
    rows = rows[np.argsort(times, kind="stable")]
    seen = np.zeros(dataset.num_items, int)
    first = []
    for row in rows.tolist():
        item = dataset.sequence_items[row]
        seen[item] += 1
        if seen[item] <= interactions:
            first.append(row)
    return _raw(dataset, np.array(first, np.int64), np.flatnonzero(cold))


def _raw(dataset: Dataset, rows: np.ndarray, items: np.ndarray | None = None) -> RawData:
    """Some interactions of a dataset, with what it knows of their users and items.

    items: those that are told of, by default those of the interactions.
    """
    table = dataset.interactions
    users = np.unique(table["user"].to_numpy()[rows])
    items = np.unique(dataset.sequence_items[rows]) if items is None else items
    user_of, item_of = (np.zeros(n, np.int32) for n in (dataset.num_users, dataset.num_items))
    user_of[users], item_of[items] = np.arange(len(users)), np.arange(len(items))
    rating = table["rating"].to_numpy().astype(np.float32)
    if SOURCE_RATING in table.column_names:
        source = table[SOURCE_RATING].to_numpy().astype(np.float32)
        rating = np.where(np.isnan(rating), np.float32(np.nan), source)
    own = {name for name in dataset.users.column_names if name not in ("user", "key")}
    return RawData(
        name=dataset.name,
        format=dataset.manifest["format"],
        user_keys=[dataset.user_keys[user] for user in users],
        item_keys=[dataset.item_keys[item] for item in items],
        user=user_of[table["user"].to_numpy()[rows]],
        item=item_of[dataset.sequence_items[rows]],
        rating=rating[rows],
        timestamp=table["timestamp"].to_numpy()[rows],
        texts=Texts.of(_said(dataset).take(rows)),
        user_columns={name: _column(dataset.users, name, users) for name in sorted(own)},
        item_columns={name: _column(dataset.items, name, items) for name in ITEM_COLUMNS},
        time_unit=dataset.manifest["protocol"]["time_unit"],
        line=np.zeros(len(rows), np.uint32),
        sources=dataset.manifest["sources"],
    )


def _column(table: pa.Table, name: str, rows: np.ndarray) -> list[str | None]:
    values: list[str | None] = table[name].take(rows).to_pylist()
    return values


def _said(dataset: Dataset) -> pa.Table:
    """Headline and text of each interaction, null where it has no review."""
    reviews = dataset.reviews
    found = np.full(dataset.interactions.num_rows, -1)
    found[own_interactions(dataset)] = np.arange(reviews.num_rows)
    rows = pa.array(found, pa.int64(), mask=found < 0)
    return reviews.select(SCHEMA.names).take(rows).cast(SCHEMA)
