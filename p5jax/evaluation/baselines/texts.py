"""Headlines and explanations that are found, not generated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
import scipy.sparse as sp
from rouge_score.rouge_scorer import RougeScorer

from p5jax.data.dataset import Dataset
from p5jax.evaluation.baselines.reviews import Reviews
from p5jax.evaluation.baselines.words import WordVectors

MOST_WORDS = 12  # of a headline
CHOOSING_REVIEWS = 500  # of validation, at most


def most_frequent(dataset: Dataset, column: str) -> str:
    """The most frequent text of a training reviews' column; of equals the alphabetically first."""
    counts = Counter(Reviews.of(dataset, "train").texts(column))
    del counts[""]
    return min(counts, key=lambda text: (-counts[text], text)) if counts else ""


def leading_words(dataset: Dataset, reviews: Reviews) -> list[str]:
    """Return the first words of each review, as many as are most like validation headlines [N]."""
    held = Reviews.of(dataset, "validation").with_texts("text", "headline").spread(CHOOSING_REVIEWS)
    pairs = list(zip(held.texts("text"), held.texts("headline"), strict=True))
    rouge = RougeScorer(["rougeL"])

    def likeness(count: int) -> float:
        scores = (rouge.score(headline, _first(text, count)) for text, headline in pairs)
        return float(sum(score["rougeL"].fmeasure for score in scores))

    count = max(range(1, MOST_WORDS + 1), key=likeness)
    return [_first(text, count) for text in reviews.texts("text")]


def _first(text: str, count: int) -> str:
    return " ".join(text.split()[:count])


def typical_sentences(dataset: Dataset, reviews: Reviews) -> dict[str, list[str]]:
    """Return the training sentence that is most like its item's others, for each review [N].

    Beside it, for who knows what feature is asked for: most like the others of the same feature
    word, whatever the item, and of the same item and feature word. Where the latter has none, the
    item's, then the feature's; the most typical of all where there is none of these.
    """
    training = Reviews.of(dataset, "train").with_texts("sentence")
    sentences = training.texts("sentence")
    vectors = WordVectors(sentences)(sentences)
    known = list(zip(training.items().tolist(), training.texts("feature"), strict=True))
    asked = list(zip(reviews.items().tolist(), reviews.texts("feature"), strict=True))

    def found(*groupings: Sequence[int]) -> list[str]:
        """The most typical sentence of the first of some groupings that has one."""
        chosen = [-1] * len(asked)
        for parts in groupings:
            keys = [tuple(pair[part] for part in parts) for pair in known]
            rows = most_typical(vectors, keys)
            for n, pair in enumerate(asked):
                if chosen[n] < 0:
                    chosen[n] = rows.get(tuple(pair[part] for part in parts), -1)
        return [sentences[row] for row in chosen]

    return {
        "typical_sentence_of_item": found((0,), ()),
        "typical_sentence_of_feature": found((1,), ()),
        "typical_sentence_with_feature": found((0, 1), (0,), (1,), ()),
    }


def most_typical(vectors: sp.csr_array, groups: Sequence[Hashable]) -> dict[Hashable, int]:
    """Return the row of each group with the highest mean cosine to the others; of equals the first.

    vectors: [N, F] of length 1. groups: of each row, [N].
    """
    numbers: dict[Hashable, int] = {}
    group = np.array([numbers.setdefault(each, len(numbers)) for each in groups], np.int64)
    rows = np.repeat(np.arange(len(group)), np.diff(vectors.indptr))
    keys = group[rows] * vectors.shape[1] + vectors.indices
    _, number = np.unique(keys, return_inverse=True)
    totals = np.bincount(number, weights=vectors.data)
    # To all others of the group together: their number is the same for all rows of a group.
    others = vectors.data * (totals[number] - vectors.data)
    likeness = np.bincount(rows, weights=others, minlength=len(group)).round(9)
    order = np.lexsort((-likeness, group))
    _, first = np.unique(group[order], return_index=True)
    return dict(zip(numbers, order[first].tolist(), strict=True))
