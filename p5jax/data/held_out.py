"""A dataset with other held-out rows: what is fitted on it must be what was fitted before.

Every field of a held-out interaction and review is changed, in memory, and nothing of a training
row. Who was held out, and in which order, stays, as do the tables of users and items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p5jax.data.dataset import SOURCE_RATING, TEST, TRAIN, VALIDATION, Dataset

FAR_RATING = 1e4  # beyond every scale
LATER = 1_000_000  # in the dataset's unit of time
# Said in enough held-out reviews to become a feature word, a piece of a vocabulary, a most frequent
# headline or sentence, if one of these looked at them.
TEXTS = {
    "headline": "Zorblequax",
    "text": "The zorblequax is great. I like the zorblequax of it.",
    "feature": "zorblequax",
    "sentence": "The zorblequax is great.",
}


def with_other_held_out(dataset: Dataset, seed: int = 0) -> Dataset:
    """Return a dataset of the same training rows, users and items, with other held-out rows.

    Items and stars are others, the source's ratings, which it always has, are beyond every scale,
    times are later in the same order, and all reviews say the same of a thing that nobody else has
    heard of.
    """
    interactions, reviews = dataset.interactions, dataset.reviews
    split = interactions["split"].to_numpy()
    held = split != TRAIN
    rng = np.random.default_rng(seed)
    step = rng.integers(1, max(dataset.num_items, 2), len(split))
    item = interactions["item"].to_numpy()
    stars = interactions["rating"].fill_null(0).to_numpy()
    later = np.select([split == VALIDATION, split == TEST], [LATER, 2 * LATER])
    values = {
        "item": (item + step) % dataset.num_items,
        "rating": stars % 5 + 1,
        "timestamp": interactions["timestamp"].to_numpy() + later,
    }
    if SOURCE_RATING not in interactions.column_names:
        interactions = interactions.append_column(SOURCE_RATING, interactions["rating"])
    far = FAR_RATING * rng.choice([-1, 1], len(split))
    changed = _replaced(interactions, held, values | {SOURCE_RATING: far})
    parts = reviews["split"].to_numpy()
    reviewed = parts != TRAIN
    rows = own_interactions(dataset)
    own = {name: changed[name].take(rows) for name in values}
    said = {name: pa.scalar(text, reviews[name].type) for name, text in TEXTS.items()}
    tables = {
        "users": dataset.users,
        "items": dataset.items,
        "interactions": changed,
        "reviews": _replaced(reviews, reviewed, own | said),
    }
    return Dataset(dataset.path, dataset.manifest, tables)


def own_interactions(dataset: Dataset) -> np.ndarray:
    """Return the row of interactions of each review, int64 [N]; any row where it has none."""
    pairs, reviewed = (
        table["user"].to_numpy().astype(np.int64) * dataset.num_items + table["item"].to_numpy()
        for table in (dataset.interactions, dataset.reviews)
    )
    order = np.argsort(pairs, kind="stable")
    place = np.searchsorted(pairs, reviewed, sorter=order).clip(max=len(pairs) - 1)
    rows: np.ndarray = order[place]
    return rows


def _replaced(table: pa.Table, rows: np.ndarray, values: dict[str, Any]) -> pa.Table:
    """Return a table with other values of some columns in `rows`, bool [N]."""
    for name, new in values.items():
        at, kind = table.column_names.index(name), table[name].type
        if isinstance(new, np.ndarray):
            new = pa.array(new).cast(kind)
        column = pc.if_else(pa.array(rows), new, table[name])
        table = table.set_column(at, name, column)
    return table
