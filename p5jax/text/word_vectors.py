"""Word vectors: which pieces of a vocabulary are alike, counted from training texts."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from p5jax.data.dataset import Dataset
from p5jax.data.item_vectors import leading_directions, near_pairs
from p5jax.text.corpus import training_texts
from p5jax.text.vocabulary import Vocabulary

TEXTS = 50_000  # that are counted, at most: reviews, headlines and titles, evenly spread over all
SMOOTHED = 0.75  # the power of how frequent a piece is as another one's neighbour


def word_vectors(vocabulary: Vocabulary, dataset: Dataset, width: int) -> np.ndarray:
    """Return a vector of each piece, float64 [pieces, W], zero for one that no training text has.

    The leading directions, `width` at most, of the positive pointwise mutual information of pieces
    that stand near each other (Levy, Goldberg and Dagan 2015). The same on any number of cores.
    """
    import sklearn.utils.extmath  # noqa: F401  (before the limit, which holds for what is loaded)
    from threadpoolctl import threadpool_limits

    pieces, most = vocabulary.num_pieces, 2 * dataset.reviews.num_rows + dataset.num_items
    texts = training_texts(dataset, every=max(1, -(-most // TEXTS)))
    tokens = [np.array(vocabulary.encode(text), np.int64) for text in texts]
    near = near_pairs([each[each < pieces] for each in tokens], pieces)
    with threadpool_limits(1):
        left, values = leading_directions(_information(near), width)
    vectors: np.ndarray = np.round(left * np.sqrt(values), 6) + 0.0
    return vectors


def _information(near: sp.csr_array) -> sp.csr_array:
    """The positive pointwise mutual information of pairs, by how often they are near, [V, V]."""
    total = np.asarray(near.sum(axis=1)).ravel()
    share = total**SMOOTHED / max((total**SMOOTHED).sum(), 1e-12)
    pairs = near.tocoo()
    row, column = pairs.coords
    values = np.log(pairs.data / (total[row] * share[column]))
    kept = values > 0
    return sp.csr_array((values[kept], (row[kept], column[kept])), shape=near.shape)
