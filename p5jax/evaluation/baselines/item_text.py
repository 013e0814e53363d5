"""Co-occurrence and text: what STAR joins for lists without training (Lee 2024, arXiv 2410.16458).

STAR adds half the co-occurrence and half the likeness of the texts of the last items, older ones
counting less. Here co-occurrence is the baseline of that name, which looks at distance and
direction; the texts are titles, brands and categories by TF-IDF; and the weight of the texts is
chosen on validation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from p5jax.core.progress import Report
from p5jax.data.dataset import Dataset
from p5jax.data.item_vectors import item_texts
from p5jax.evaluation.baselines.choice import best_on_validation
from p5jax.evaluation.baselines.ease import too_large
from p5jax.evaluation.baselines.scores import Scorer
from p5jax.evaluation.baselines.words import WordVectors
from p5jax.memory.histories import Histories, training_counts
from p5jax.memory.neighbours import RECENT, damped, pairs, recent_items

SHARES = (0.5, 0.25, 0.75, 0.1)  # of the texts
_BLOCK = 1024


def lacks_text(dataset: Dataset) -> str | None:
    """Return why a dataset's items cannot be compared by their texts, or None."""
    some = any(text.strip() for text in item_texts(dataset.items))
    return too_large(dataset) if some else "its items have no title, brand or category"


def co_occurrence_and_text(dataset: Dataset, report: Report) -> Scorer:
    """Score items by nearness and likeness to the last ones, their shares chosen on validation.

    Nearness is scaled so that the largest of an item is 1 on average, as likeness is at most 1.
    """
    near = damped(pairs(dataset), training_counts(dataset))
    largest = near.max(axis=1).toarray() if near.nnz else np.zeros(1)
    near = sp.csr_array(near / (largest[largest > 0].mean() if largest.any() else 1.0))
    near = near.astype(np.float32)
    alike = likeness(item_texts(dataset.items))

    def scorer(share: float) -> Scorer:
        def score(cases: Histories) -> np.ndarray:
            history = recent_items(cases, RECENT, len(alike)).astype(np.float32)
            return np.asarray((1 - share) * (history @ near).toarray() + share * (history @ alike))

        return score

    settings = ((share, scorer(share)) for share in SHARES)
    named = "baseline co-occurrence and text: share of the text"
    return scorer(best_on_validation(dataset, named, settings, report))


def likeness(texts: Sequence[str]) -> np.ndarray:
    """Return the cosines of the TF-IDF vectors of texts [I], float32 [I, I]."""
    vectors = WordVectors(texts)(texts).astype(np.float32)
    found = np.empty((len(texts), len(texts)), np.float32)
    for start in range(0, len(texts), _BLOCK):
        rows = slice(start, start + _BLOCK)
        found[rows] = (vectors[rows] @ vectors.T).toarray()
    return found
