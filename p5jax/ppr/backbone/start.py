"""A start of the items' embeddings from counts: which items stand near each other in training."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from p5jax.data.dataset import Dataset
from p5jax.memory.histories import neighbours

STARTS = ("counts", "noise")
WINDOW = 10  # positions between two items of a history that still stand near each other
LENGTH = 0.4  # of a start: short enough for the first steps to turn it, long beside the noise


def counted_embeddings(dataset: Dataset, users: np.ndarray, width: int) -> np.ndarray:
    """Return a start for each item, float32 [I, D], from the training items of `users`.

    A truncated SVD of the normalised co-occurrence D^-1/2 (C + C') D^-1/2 + I, where C sums
    1 / distance over pairs of positions at most WINDOW apart: what a linear item model knows
    (Levy and Goldberg 2014). Rows have the length LENGTH, those of items without a neighbour 0.
    The same on any number of cores.
    """
    import sklearn.utils.extmath as extmath
    from threadpoolctl import threadpool_limits

    counts = neighbours(dataset, WINDOW, lambda distance: (1 / distance, 1 / distance), users)
    degree = counts.sum(axis=1)
    known = degree > 0
    scale = sp.diags_array(known / np.sqrt(np.where(known, degree, 1.0)))
    # With the identity no eigenvalue is negative, so that opposites are not taken for neighbours.
    matrix = sp.csr_array(scale @ counts @ scale + sp.diags_array(known.astype(float)))
    rank = min(width, dataset.num_items)
    with threadpool_limits(1):
        left, values, _ = extmath.randomized_svd(matrix, rank, random_state=0, flip_sign=True)
        vectors = np.zeros((dataset.num_items, width))
        vectors[:, :rank] = left * np.sqrt(values) * known[:, None]
        # Turned at random, so that each head of the attention sees a part of every direction.
        turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))
        vectors = vectors @ turn
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(LENGTH * vectors / np.maximum(lengths, 1e-9), np.float32)
