"""A dataset with new users, items and interactions, of which nothing is held out any more."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from p5jax.core.errors import UserError
from p5jax.data import splits
from p5jax.data.building import without_outside
from p5jax.data.dataset import COLUMNS, EXTENDED, SOURCE_RATING, TRAIN, Dataset
from p5jax.data.item_vectors import VECTOR, item_texts
from p5jax.data.new_items import NewItems
from p5jax.data.ratings import WIDEST, RatingScale
from p5jax.data.readers.lines import LineErrors
from p5jax.data.readers.raw import ITEM_COLUMNS, RawData
from p5jax.data.readers.times import UNKNOWN
from p5jax.data.time_split import PER_SECOND, POSITION
from p5jax.data.writing import write_dataset


@dataclass(frozen=True, eq=False)
class Extension:
    """What joins a dataset: its users and items keep their numbers, and new ones follow.

    users, items: the new rows of these tables, items without ids and vectors. interactions: all of
    them, new and known, user by user in time order. counts: of what is new and of what is left out.
    """

    dataset: Dataset
    raw: RawData
    users: pa.Table
    items: pa.Table
    interactions: pa.Table
    new_items: NewItems
    counts: dict[str, int]

    @staticmethod
    def of(
        dataset: Dataset,
        raw: RawData,
        skip_bad_lines: bool = False,
        *,
        same_source: bool = False,
    ) -> Extension:
        """Put raw rows behind those of a dataset.

        Of a user and an item only the first interaction counts, as in every dataset: a known one,
        or else the earliest. Rows without times stand behind what is known of their user, unless
        they are of the same source as the dataset, whose order then says where.
        UserError for ratings outside the dataset's scale, times in another unit than its own, and
        where nothing is new.
        """
        errors = LineErrors(skip_bad_lines)
        rows = _rated_rows(dataset, raw, errors)
        item_of = _numbers(dataset.item_keys, raw.item_keys)
        user_of = _numbers(dataset.user_keys, [raw.user_keys[u] for u in _distinct(raw.user[rows])])
        user = np.array([user_of[raw.user_keys[u]] for u in raw.user[rows]], np.int32)
        item = np.array([item_of[raw.item_keys[i]] for i in raw.item[rows]], np.int32)
        kept, counts = _unseen(dataset, user, item, raw.timestamp[rows], len(item_of))
        counts["skipped_lines"] = raw.skipped_lines + errors.skipped
        rows, user, item = rows[kept], user[kept], item[kept]
        users = _keyed("users", "user", list(user_of)[dataset.num_users :], dataset.num_users)
        items = _items(raw, list(item_of)[dataset.num_items :], dataset.num_items)
        if not len(rows) and not items.num_rows:
            raise UserError(
                f"{dataset.path}: found nothing that is new, expected interactions or items that it"
                " does not have"
            )
        times = raw.timestamp[rows] if same_source else _times(dataset, raw, rows, user)
        interactions, known = _joined(dataset, raw.rating[rows], user, item, times)
        counts |= {"users": users.num_rows, "items": items.num_rows, "interactions": len(rows)}
        sequences = _sequences(interactions, known, len(user_of))
        new = NewItems(dataset, item_texts(items), sequences)
        return Extension(dataset, raw, users, items, interactions, new, counts)

    def write(self, out: str | os.PathLike[str], ids: list[str]) -> None:
        """Write the extended dataset to a folder, the new items with these ids."""
        base, items = self.dataset, self.items.append_column("item_id", pa.array(ids, pa.string()))
        if base.given_vectors is not None:
            placed = self.new_items.placed(base.given_vectors).astype(np.float32)
            items = items.append_column(VECTOR, pa.array(list(placed), pa.list_(pa.float32())))
        items, users = _behind(base.items, items), _behind(base.users, self.users)
        reviews, protocol = _all_known(base.reviews), dict(base.manifest["protocol"])
        protocol.pop("cuts", None)  # of time: nothing is held out any more
        sizes = {"users": users, "items": items, "interactions": self.interactions}
        counts = {name: table.num_rows for name, table in sizes.items()}
        counts["training_interactions"] = self.interactions.num_rows
        write_dataset(
            out,
            name=base.name,
            format=base.manifest["format"],
            sources=base.manifest["sources"] + self.raw.sources,
            protocol={
                **protocol,
                "split": "none: all interactions of an extended dataset are known",
                EXTENDED: base.fingerprint,
            },
            counts=counts | {f"new_{name}": count for name, count in self.counts.items()},
            users=users,
            items=items,
            interactions=_all_known(self.interactions),
            reviews=reviews,
            item_ids=base.manifest["item_ids"],
            understood=self.raw.understood,
        )


def _rated_rows(dataset: Dataset, raw: RawData, errors: LineErrors) -> np.ndarray:
    """The raw rows whose rating is within the dataset's scale."""
    scale = _scale(dataset) or WIDEST
    rows = np.arange(len(raw.user))
    return without_outside(raw, rows, rows[scale.outside(raw.rating)], scale, errors)


def _scale(dataset: Dataset) -> RatingScale | None:
    scale = dataset.manifest["protocol"].get("ratings", {}).get("scale")
    return RatingScale(*scale) if scale else None


def _distinct(numbers: np.ndarray) -> list[int]:
    """Indices that occur, ascending: keys are numbered by first appearance."""
    found: list[int] = np.unique(numbers).tolist()
    return found


def _numbers(known: list[str], keys: list[str]) -> dict[str, int]:
    """Number the keys that are not known behind those that are."""
    found = {key: number for number, key in enumerate(known)}
    for key in keys:
        found.setdefault(key, len(found))
    return found


def _unseen(
    dataset: Dataset, user: np.ndarray, item: np.ndarray, time: np.ndarray, num_items: int
) -> tuple[np.ndarray, dict[str, int]]:
    """The positions of the rows [N] whose pair is neither known nor that of an earlier row, and
    how many are not."""
    owners = dataset.interactions["user"].to_numpy().astype(np.int64)
    known = np.isin(
        user.astype(np.int64) * num_items + item, owners * num_items + dataset.sequence_items
    )
    first = splits.first_of_pairs(user, item, time) == np.arange(len(user))
    counts = {"known_pairs": int(known.sum()), "repeated_pairs": int((~known & ~first).sum())}
    return np.flatnonzero(first & ~known), counts


def _keyed(table: str, index: str, keys: list[str], first: int) -> pa.Table:
    """New rows of a table of users or items, their numbers from `first`."""
    schema = COLUMNS[table]
    rows = {
        index: pa.array(np.arange(first, first + len(keys)), pa.int32()),
        "key": pa.array(keys, pa.string()),
    }
    empty = {name: pa.nulls(len(keys), pa.string()) for name in schema.names if name not in rows}
    return pa.table(rows | empty)


def _items(raw: RawData, keys: list[str], first: int) -> pa.Table:
    row_of = {key: row for row, key in enumerate(raw.item_keys)}
    table = _keyed("items", "item", keys, first).drop_columns(["item_id", *ITEM_COLUMNS])
    for name in ITEM_COLUMNS:
        values = [raw.item_columns[name][row_of[key]] for key in keys]
        table = table.append_column(name, pa.array(values, pa.string()))
    return table


def _joined(
    dataset: Dataset, source: np.ndarray, user: np.ndarray, item: np.ndarray, time: np.ndarray
) -> tuple[pa.Table, np.ndarray]:
    """All interactions in order, the new ones with ratings of the source, and which of them are
    not held out: bool [N]."""
    scale = _scale(dataset)
    stars = scale.stars(source) if scale else np.full(len(source), np.nan, np.float32)
    columns: dict[str, Any] = {
        "user": user,
        "item": item,
        "rating": pa.array(stars, pa.float32(), mask=np.isnan(stars)),
        "timestamp": time,
        "split": np.full(len(source), TRAIN, np.int8),
    }
    if SOURCE_RATING in dataset.interactions.column_names:
        columns[SOURCE_RATING] = pa.array(source, pa.float32(), mask=np.isnan(source))
    table = _behind(dataset.interactions, pa.table(columns))
    times, users = table["timestamp"].to_numpy(), table["user"].to_numpy()
    table = table.take(np.lexsort((times, users)))  # stable: of equal times the known one is first
    return table, table["split"].to_numpy() == TRAIN


def _times(dataset: Dataset, raw: RawData, rows: np.ndarray, user: np.ndarray) -> np.ndarray:
    """The new rows' times in the dataset's unit, int64 [N]."""
    unit, time = dataset.manifest["protocol"]["time_unit"], raw.timestamp[rows]
    if POSITION in (unit, raw.time_unit):
        last = np.full(max(dataset.num_users, int(user.max(initial=-1)) + 1), -1, np.int64)
        known = dataset.interactions
        np.maximum.at(last, known["user"].to_numpy(), known["timestamp"].to_numpy())
        order = np.argsort(np.argsort(time, kind="stable"))
        behind: np.ndarray = last[user] + 1 + order
        return behind
    if unit != raw.time_unit and not {unit, raw.time_unit} <= PER_SECOND.keys():
        raise UserError(
            f"{raw.sources[0]['path']}: found times in {_units(raw.time_unit)}, expected"
            f" {_units(unit)}, as {dataset.path} has them"
        )
    steps, found = PER_SECOND.get(unit, 1), PER_SECOND.get(raw.time_unit, 1)
    scaled: np.ndarray = np.asarray(
        time * (steps // found) if steps > found else time // (found // steps)
    )
    return scaled


def _units(unit: str) -> str:
    return f"{unit}s" if unit in PER_SECOND else f"an {unit}" if unit == UNKNOWN else unit


def _sequences(interactions: pa.Table, known: np.ndarray, num_users: int) -> list[np.ndarray]:
    """Each user's items that are not held out, in time order."""
    items = interactions["item"].to_numpy()[known]
    counts = np.bincount(interactions["user"].to_numpy()[known], minlength=num_users)
    return np.split(items, np.cumsum(counts)[:-1])


def _behind(known: pa.Table, new: pa.Table) -> pa.Table:
    """A table's rows, and new ones, in its own columns: null where new ones have none."""
    return pa.concat_tables([known, new], promote_options="default").combine_chunks()


def _all_known(table: pa.Table) -> pa.Table:
    """The same rows with nothing held out."""
    at = table.column_names.index("split")
    return table.set_column(at, "split", pa.array(np.full(table.num_rows, TRAIN, np.int8)))
