"""A dataset asked about for the users of another, who are known by their keys."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from p5jax.core.errors import UserError
from p5jax.data.dataset import TRAIN, Dataset


def with_users_of(dataset: Dataset, known: Dataset) -> Dataset:
    """Return `dataset` with the users of `known` first, under their numbers, keys and names.

    Held-out rows are those of the users that both have; training rows are all there. For families
    of one sample a record: sequences of users that `known` lacks have no held-out end. UserError
    when no user is in both.
    """
    numbers = {key: user for user, key in enumerate(known.user_keys)}
    shared = np.array([key in numbers for key in dataset.user_keys])
    if not shared.any():
        raise UserError(
            f"{dataset.path}: found no user of {known.path}, expected some with the same keys"
        )
    others = dataset.users.filter(pa.array(~shared))
    columns = ["user", "key", "name"]
    users = pa.concat_tables([known.users.select(columns), others.select(columns)])
    users = users.set_column(0, users.field(0), pa.array(np.arange(len(users)), pa.int32()))
    numbers |= {key: len(numbers) + n for n, key in enumerate(others["key"].to_pylist())}
    new = np.array([numbers[key] for key in dataset.user_keys], np.int32)

    def renumbered(rows: pa.Table) -> pa.Table:
        old = rows["user"].to_numpy()
        kept = np.flatnonzero(shared[old] | (rows["split"].to_numpy() == TRAIN))
        order = kept[np.argsort(new[old[kept]], kind="stable")]
        rows = rows.take(pa.array(order))
        place = rows.column_names.index("user")
        return rows.set_column(place, rows.field(place), pa.array(new[old[order]], pa.int32()))

    tables = {
        "users": users,
        "items": dataset.items,
        "interactions": renumbered(dataset.interactions),
        "reviews": renumbered(dataset.reviews),
    }
    tables = {name: table.combine_chunks() for name, table in tables.items()}
    return Dataset(dataset.path, dataset.manifest, tables)
