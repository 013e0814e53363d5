"""Co-occurrence and text: what STAR joins for lists without training (Lee 2024, arXiv 2410.16458).

STAR adds half the co-occurrence and half the likeness of the texts of the last items, older ones
counting less. Here co-occurrence is the baseline of that name, which looks at distance and
direction; the texts are titles, brands and categories by TF-IDF; and the weight of the texts is
chosen on validation.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from p5jax.core.progress import Report
from p5jax.data.dataset import Dataset
from p5jax.evaluation.baselines.choice import best_on_validation
from p5jax.evaluation.baselines.counts import RECENT, damped_neighbours, weighted_history
from p5jax.evaluation.baselines.scores import Scorer
from p5jax.evaluation.baselines.words import WordVectors
from p5jax.evaluation.histories import Histories

COLUMNS = ("title", "brand", "categories")
SHARES = (0.5, 0.25, 0.75, 0.1)  # of the texts


def item_texts(dataset: Dataset) -> list[str]:
    """Return each item's title, brand and categories as one text, [I]."""
    columns = (dataset.items[name].to_pylist() for name in COLUMNS)
    return [" ".join(text for text in row if text) for row in zip(*columns, strict=True)]


def lacks_text(dataset: Dataset) -> str | None:
    """Return why a dataset's items have no likeness of texts, or None."""
    some = any(text.strip() for text in item_texts(dataset))
    return None if some else "its items have no title, brand or category"


def co_occurrence_and_text(dataset: Dataset, report: Report) -> Scorer:
    """Score items by nearness and likeness to the last ones, their shares chosen on validation."""
    near = damped_neighbours(dataset)
    largest = near.max(axis=1).toarray() if near.nnz else np.zeros(1)
    near = sp.csr_array(near / (largest[largest > 0].mean() if largest.any() else 1.0))
    texts = item_texts(dataset)
    vectors = WordVectors(texts)(texts)

    shares = ((share, _scorer(near, vectors, share)) for share in SHARES)
    named = "baseline co-occurrence and text: share of the text"
    return _scorer(near, vectors, best_on_validation(dataset, named, shares, report))


def _scorer(near: sp.csr_array, vectors: sp.csr_array, share: float) -> Scorer:
    """Mix nearness [I, I], of which the largest of each item is 1 on average, and likeness."""

    def score(cases: Histories) -> np.ndarray:
        history = weighted_history(cases, RECENT, len(near.indptr) - 1)
        likeness = (history @ vectors) @ vectors.T
        return np.asarray(((1 - share) * (history @ near) + share * likeness).toarray())

    return score
