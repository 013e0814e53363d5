"""Held-out rows that are cold: training has no interaction of their user, or none with their item.

Leave-one-out leaves every user some training; a split by time leaves some users and items none.
"""

from __future__ import annotations

import numpy as np

from p5jax.data.dataset import TRAIN, Dataset
from p5jax.data.names import SPLITS


def is_warm(dataset: Dataset, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return of which pairs [N] training has both the user and the item, bool [N]."""
    kept = dataset.interactions["split"].to_numpy() == TRAIN
    known = np.zeros(dataset.num_items, bool)
    known[dataset.sequence_items[kept]] = True
    warm: np.ndarray = (dataset.training_lengths[users] > 0) & known[items]
    return warm


def held_out_counts(user: np.ndarray, item: np.ndarray, split: np.ndarray) -> dict[str, int]:
    """Return what is held out, and how much of it is cold, by name; all arrays [N].

    Rankings ask each held-out user about the first row of his, so there are as many questions as
    users; the other families ask about every row.
    """
    counts = {}
    training = split == TRAIN
    for number, name in enumerate(SPLITS[1:], 1):
        held = split == number
        cold_user, cold_item = (~np.isin(each, each[training]) for each in (user, item))
        counts[f"{name}_interactions"] = int(held.sum())
        counts[f"{name}_users"] = len(np.unique(user[held]))
        counts[f"{name}_cold"] = int((held & (cold_user | cold_item)).sum())
        counts[f"{name}_cold_users"] = len(np.unique(user[held & cold_user]))
        counts[f"{name}_cold_items"] = len(np.unique(item[held & cold_item]))
    return counts
