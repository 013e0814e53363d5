"""The dataset folder: users, items, interactions and reviews as Parquet, plus manifest.json."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5jax.core.errors import UserError, nearest, shown
from p5jax.core.files import checksum
from p5jax.core.folder import OutputFolder
from p5jax.core.tables import read_parquet
from p5jax.data.families import FAMILIES
from p5jax.data.item_ids import id_tokens
from p5jax.data.item_vectors import VECTOR
from p5jax.data.manifest import Manifest
from p5jax.data.names import SPLITS as SPLITS

TABLES = ("users", "items", "interactions", "reviews")
Key = str | int  # of a user or item in the source; 12 is "12"
Named = TypeVar("Named")
TRAIN, VALIDATION, TEST = 0, 1, 2
EXTENDED = "extended"  # a key of the protocol of datasets that were extended
ROW_GROUP = 1 << 20  # rows of a table that a Parquet file keeps together
SOURCE_RATING = "source_rating"  # a column of interactions where the stars are not the ratings

DATASET_FOLDER = OutputFolder(
    "dataset folder", "manifest.json", 1, "p5jax data prepare", contents=Manifest
)

_PAIR = pa.schema(
    [
        pa.field("user", pa.int32(), nullable=False),
        pa.field("item", pa.int32(), nullable=False),
        pa.field("rating", pa.float32()),
        pa.field("timestamp", pa.int64(), nullable=False),
        pa.field("split", pa.int8(), nullable=False),
    ]
)


def _texts(*names: str, nullable: bool = True) -> list[pa.Field]:
    return [pa.field(name, pa.string(), nullable) for name in names]


COLUMNS = {
    "users": pa.schema([_PAIR.field("user"), *_texts("key", nullable=False), *_texts("name")]),
    "items": pa.schema(
        [
            _PAIR.field("item"),
            *_texts("key", nullable=False),
            *_texts("title", "brand", "categories", "price"),
            *_texts("item_id", nullable=False),
        ]
    ),
    "interactions": _PAIR,
    "reviews": pa.schema([*_PAIR, *_texts("headline", "text", "feature", "sentence")]),
}


class Dataset:
    """A prepared dataset, read-only.

    Users and items are indices 0 … U-1 and 0 … I-1; a user's interactions are in time order: first
    those for training, then those of validation, then those of the test. Leave-one-out has one each
    of the last two for every user; a split by time any number. Where they lie, `ends` says alone.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], tables: dict[str, pa.Table]):
        self.path = path
        self.manifest = manifest
        self.users, self.items = tables["users"], tables["items"]
        self.interactions, self.reviews = tables["interactions"], tables["reviews"]
        self.name: str = manifest["name"]
        self.num_users: int = self.users.num_rows
        self.num_items: int = self.items.num_rows
        self.user_keys: list[str] = self.users["key"].to_pylist()
        names = self.users["name"].to_pylist()
        self.user_names: list[str] = [n or k for n, k in zip(names, self.user_keys, strict=True)]
        self.item_keys: list[str] = self.items["key"].to_pylist()
        self.titles: list[str | None] = self.items["title"].to_pylist()
        self.item_ids: list[str] = self.items["item_id"].to_pylist()
        self.id_scheme: str = manifest["item_ids"]["scheme"]
        self.leaky: bool = manifest["item_ids"]["leaky"]
        self.id_tokens: list[str] = id_tokens(self.item_ids)
        self.sequence_items = self.interactions["item"].to_numpy()
        counts = np.bincount(self.interactions["user"].to_numpy(), minlength=self.num_users)
        self.offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Dataset:
        """Read a dataset folder; UserError when it is absent, of another format or damaged."""
        path = Path(path)
        manifest = DATASET_FOLDER.read(path)
        checksums = manifest["tables"]
        tables = {
            name: _read_table(path / f"{name}.parquet", name, checksums[name]) for name in TABLES
        }
        return Dataset(path, manifest, tables)

    def sequence(self, user: int) -> np.ndarray:
        """Return all items of a user in time order, held-out ones included."""
        items: np.ndarray = self.sequence_items[self.offsets[user] : self.offsets[user + 1]]
        return items

    def history(self, user: int, split: str) -> np.ndarray:
        """Return the items known when the target of `split` is predicted, in time order.

        These are a user's training items and, for the test, those of validation.
        """
        items: np.ndarray = self.sequence_items[self.offsets[user] : self.known_until(split)[user]]
        return items

    def target(self, user: int, split: str) -> int:
        """Return what a user of `held_out_users` is asked about: the first item of `split`."""
        return int(self.sequence_items[self.known_until(split)[user]])

    @cached_property
    def ends(self) -> np.ndarray:
        """The row after each user's last one of training, of validation and of test, int64 [3, U].

        A part begins where the one before it ends, training at `offsets`.
        """
        user, part = (self.interactions[name].to_numpy() for name in ("user", "split"))
        counts = [
            np.bincount(user[part == number], minlength=self.num_users)
            for number in range(len(SPLITS))
        ]
        found: np.ndarray = self.offsets[:-1] + np.cumsum(counts, axis=0)
        return found

    @cached_property
    def cuts(self) -> tuple[int, int] | None:
        """When validation and test begin, in the unit of the times; None where one is left out.

        UserError for a manifest that says anything else.
        """
        found = self.manifest["protocol"].get("cuts")
        if found is None:
            return None
        numbers = isinstance(found, list) and [type(cut) for cut in found] == [int, int]
        if not numbers or not -(2**63) <= found[0] < found[1] < 2**63:
            file = self.path / DATASET_FOLDER.manifest
            raise UserError(f"{file}: protocol.cuts: found {shown(found)}, expected two times")
        return found[0], found[1]

    def known_until(self, split: str) -> np.ndarray:
        """Return the row after each user's last one that is known before `split`: int64 [U].

        In training that is the last training row.
        """
        until: np.ndarray = self.ends[max(SPLITS.index(split) - 1, 0)]
        return until

    def held_out_users(self, split: str) -> np.ndarray:
        """Return the users who have rows in `split` ("validation" or "test"), ascending."""
        return np.flatnonzero(self.ends[SPLITS.index(split)] > self.known_until(split))

    @cached_property
    def training_lengths(self) -> np.ndarray:
        """How many training rows each user has, int64 [U]."""
        lengths: np.ndarray = self.ends[TRAIN] - self.offsets[:-1]
        return lengths

    def refuse_nothing_held_out(self) -> Dataset:
        """Return the dataset; UserError for an extended one, on which nothing can be measured."""
        if EXTENDED in self.manifest["protocol"]:
            raise UserError(
                f"{self.path}: found a dataset that p5jax extend has made, of which no interaction"
                " is held out, expected the one that it was made from"
            )
        return self

    @cached_property
    def training_sequences(self) -> list[np.ndarray]:
        """The training items of each user in time order."""
        bounds = zip(self.offsets[:-1], self.ends[TRAIN], strict=True)
        return [self.sequence_items[start:stop] for start, stop in bounds]

    @cached_property
    def given_vectors(self) -> np.ndarray | None:
        """The items' vectors [I, W] that were given when the dataset was prepared, or None."""
        if VECTOR not in self.items.column_names:
            return None
        return np.array(self.items[VECTOR].to_pylist(), np.float32)

    @cached_property
    def families(self) -> tuple[str, ...]:
        """The prompt families this dataset can feed, by what its training rows have."""
        needed = {name: kind.needs for name, kind in FAMILIES.items()}
        return tuple(
            name
            for name, needs in needed.items()
            if needs is None or self._has(needs.table, needs.column)
        )

    def _has(self, table: str, column: str) -> bool:
        rows = getattr(self, table)
        present = pc.is_valid(rows[column])
        if "split" in rows.column_names:
            present = pc.and_(present, pc.equal(rows["split"], TRAIN))
        return bool(pc.any(present).as_py())

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the tables' checksums, equal for equal data, splits and item ids."""
        return tables_fingerprint(self.manifest)

    @cached_property
    def _user_of_key(self) -> dict[str, int]:
        return {key: index for index, key in enumerate(self.user_keys)}

    @cached_property
    def _item_of_key(self) -> dict[str, int]:
        return {key: index for index, key in enumerate(self.item_keys)}

    def user_index(self, key: Key) -> int:
        """Return the index of a user's source key; UserError naming near keys when unknown."""
        return _lookup(self._user_of_key, key, f"{self.path}: user")

    def item_index(self, key: Key) -> int:
        """Return the index of an item's source key; UserError naming near keys when unknown."""
        return _lookup(self._item_of_key, key, f"{self.path}: item")

    @cached_property
    def _items_of_title(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for item, title in enumerate(self.titles):
            if title and title.strip():
                found.setdefault(title.strip(), []).append(item)
        return found

    def names_item(self, name: str) -> bool:
        """Whether a text is an item's key or title."""
        return name in self._item_of_key or name.strip() in self._items_of_title

    def named_items(self, names: Iterable[Key], what: str) -> list[int]:
        """Return the indices of items that are named by keys, or by titles that only one has.

        UserError naming all names that are unknown, or the keys that a title may mean; `what`:
        what the items are, at its beginning.
        """
        indices: list[int] = []
        unknown: list[Key] = []
        for name in names:
            key = str(name) if isinstance(name, str | Integral) else ""
            titled = self._items_of_title.get(key.strip(), [])
            if key in self._item_of_key:
                indices.append(self._item_of_key[key])
            elif len(titled) > 1:
                keys = ", ".join(self.item_keys[item] for item in titled[:5])
                raise UserError(
                    f"{what}: {name!r} is the title of {len(titled)} items, expected a key: {keys}"
                )
            elif titled:
                indices += titled
            else:
                unknown.append(name)
        if len(unknown) > 1:
            listed = ", ".join(map(repr, unknown))
            raise UserError(f"{self.path}: {what}: items {listed} are not in the dataset")
        for name in unknown:
            _lookup(self._item_of_key, name, f"{self.path}: {what}: item")
        return indices


def key_list(keys: Iterable[Named], what: str) -> list[Named]:
    """Return several keys as a list; UserError for a single one, whose letters are no keys."""
    if isinstance(keys, str | bytes | int) or not isinstance(keys, Iterable):
        raise UserError(f"{what}: found {keys!r}, expected a list of keys, such as [{keys!r}]")
    return list(keys)


def tables_fingerprint(manifest: Mapping[str, Any]) -> str:
    """Return a dataset's fingerprint as its manifest tells it, "" where it tells of no tables."""
    checksums = manifest.get("tables")
    if not isinstance(checksums, dict):
        return ""
    text = "".join(str(checksums.get(name)) for name in TABLES)
    return hashlib.sha256(text.encode()).hexdigest()


def _lookup(index: dict[str, int], key: Key, what: str) -> int:
    if isinstance(key, Integral) and not isinstance(key, bool):
        key = str(key)
    if not isinstance(key, str):
        raise UserError(f"{what} {key!r}: expected a key, a text or a whole number")
    if key not in index:
        raise UserError(f"{what} {key!r} is not in the dataset{nearest(key, index)}")
    return index[key]


def _read_table(file: Path, name: str, expected: str) -> pa.Table:
    if not file.is_file():
        raise UserError(f"{file}: missing from the dataset folder")
    if checksum(file) != expected:
        raise UserError(
            f"{file}: contents differ from the manifest's checksum; prepare the dataset again"
        )
    return read_parquet(file, COLUMNS[name], f"the {name} of a dataset").combine_chunks()
