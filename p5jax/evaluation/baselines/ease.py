"""EASE: an item-item model that has a closed form (Steck 2019, arXiv 1905.03375)."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack

from p5jax.core.progress import Report
from p5jax.data.dataset import Dataset
from p5jax.evaluation.baselines.choice import best_on_validation
from p5jax.evaluation.baselines.scores import Scorer
from p5jax.memory.histories import Histories, training_counts, training_matrix

STRENGTHS = (300.0, 1000.0, 100.0, 30.0, 10.0)  # of the ridge
CHOOSING_ITEMS = 4000  # the most frequent, at most: what a choice among strengths is made on
MOST_ITEMS = 20_000  # a matrix of all pairs of so many is 1.6 GB, and its inverse takes minutes
_BLOCK = 1024


def too_large(dataset: Dataset) -> str | None:
    """Return why a catalogue is too large for a dense matrix of it squared, or None."""
    n = dataset.num_items
    if n <= MOST_ITEMS:
        return None
    return f"a matrix of {n:,} x {n:,} items would need {4 * n * n / 1e9:.1f} GB"


def ease(dataset: Dataset, report: Report) -> Scorer:
    """Score items by the weights of the whole history.

    The ridge is chosen on validation, among the most frequent items where there are many: the time
    goes with the cube of their number.
    """
    training, num_items = training_matrix(dataset), dataset.num_items
    by_count = np.argsort(-training_counts(dataset), kind="stable")

    def scorer(strength: float, items: np.ndarray) -> Scorer:
        """Score `items` by each other and no others."""
        weights = ease_weights(training[:, items], strength)

        def score(cases: Histories) -> np.ndarray:
            scores = np.full((len(cases.first), num_items), -np.inf, np.float32)
            history = cases.history(num_items).astype(np.float32)
            scores[:, items] = history[:, items] @ weights
            return scores

        return score

    choosing = np.sort(by_count[:CHOOSING_ITEMS])
    settings = ((strength, scorer(strength, choosing)) for strength in STRENGTHS)
    strength = best_on_validation(dataset, "baseline ease: ridge", settings, report)
    if num_items > CHOOSING_ITEMS:
        report(f"baseline ease: inverts a matrix of {num_items:,} x {num_items:,} items")
    return scorer(strength, np.arange(num_items))


def ease_weights(training: sp.csr_array, strength: float) -> np.ndarray:
    """Return the weights [I, I], float32, of which column i predicts who has item i.

    training: who has what, 0 or 1, [U, I]. The weights B minimise |X - X B|² + strength |B|² with
    a diagonal of zeros: B = I - P diag(P)^-1 with P = (X'X + strength I)^-1 (equation 8). The
    inverse is made in place, by Cholesky, and its columns are scaled where it lies.
    """
    x = training.astype(np.float32)
    weights = sp.csr_array(x.T @ x).toarray()
    weights[np.diag_indices_from(weights)] += np.float32(strength)
    # LAPACK's upper half of the transpose is our lower half; a symmetric matrix is its transpose.
    factor, failed = lapack.spotrf(weights.T, lower=0, overwrite_a=1, clean=0)
    if failed:
        raise ValueError(f"ridge {strength}: X'X + ridge is not positive definite")
    inverse, _ = lapack.spotri(factor, lower=0, overwrite_c=1)
    weights = np.asarray(inverse.T)
    for start in range(0, len(weights), _BLOCK):
        stop = start + _BLOCK
        block = weights[start:stop, start:stop]
        block[...] = np.tril(block) + np.tril(block, -1).T
        weights[start:stop, stop:] = weights[stop:, start:stop].T
    diagonal = weights.diagonal().copy()
    weights /= -diagonal
    np.fill_diagonal(weights, 0)
    return weights
