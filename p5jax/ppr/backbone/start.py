"""A start of the items' embeddings from counts: which items stand near each other in training."""

from __future__ import annotations

import numpy as np

from p5jax.data.dataset import Dataset
from p5jax.data.item_vectors import item_texts, item_vectors
from p5jax.models.starts import turned

STARTS = ("counts", "noise")
LENGTH = 0.4  # of a start: short enough for the first steps to turn it, long beside the noise


def counted_embeddings(dataset: Dataset, users: np.ndarray, width: int) -> np.ndarray:
    """Return a start for each item, float32 [I, D], from the training items of `users`.

    It is the item's vector (see data.item_vectors: co-occurrence and texts), brought to the width
    D. Rows have the length LENGTH, those of items that neither has a word of 0. The same on any
    number of cores.
    """
    chosen = [dataset.training_sequences[user] for user in users.tolist()]
    vectors = item_vectors(chosen, item_texts(dataset.items))
    starts = turned(vectors, width, seed=0)
    lengths = np.linalg.norm(starts, axis=1, keepdims=True)
    found = np.zeros((dataset.num_items, width), np.float32)
    found[:, : starts.shape[1]] = LENGTH * starts / np.maximum(lengths, 1e-9)
    return found
