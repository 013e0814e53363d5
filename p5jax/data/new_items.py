"""Items that join a catalogue without training: where they stand among those that are known.

A new item is between where its text says and the known items that it occurs with, each by its
nearness: a text counts as much as fifty interactions beside it. What a text says is half from a
ridge regression of what the known items have on their texts, and half from those of the most
similar texts. An item that occurs with none and has no text of known words is in the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from p5jax.data.dataset import Dataset
from p5jax.data.item_vectors import WIDTH, item_texts, item_vectors, near_pairs

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of which a ridge takes the best
NEAREST, SHARPNESS = 10, 8  # how many similar texts count, each by this power of its cosine
TEXT_WEIGHT = 100.0  # of a text beside nearness, which is 1 for each item that is next to it
_ROWS = 256  # texts compared at a time


@dataclass(frozen=True, eq=False)
class NewItems:
    """Items that join those of a dataset, N to its I, with the indices I … I + N - 1.

    texts: of each new item, "" where there is none. sequences: items of each user in time order,
    what is known from training and then what is new; a held-out item is in none.
    """

    dataset: Dataset
    texts: Sequence[str]
    sequences: Sequence[np.ndarray]

    def placed(self, rows: np.ndarray) -> np.ndarray:
        """Return what the new items have, [N, W], by what the known ones have, rows [I, W]."""
        known, count = len(rows), len(self.texts)
        near = near_pairs(self.sequences, known + count)[known:, :known]
        total, weight = near @ rows.astype(np.float64), np.asarray(near.sum(axis=1), np.float64)
        told, by_text = self._by_text(rows)
        total[told] += TEXT_WEIGHT * by_text
        weight[told] += TEXT_WEIGHT
        placed = np.tile(rows.astype(np.float64).mean(axis=0), (count, 1))
        placed[weight > 0] = total[weight > 0] / weight[weight > 0, None]
        return placed

    def _by_text(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the new items have a text that tells, and what they get."""
        texts = item_texts(self.dataset.items)
        described = np.array([bool(text.strip()) for text in texts])
        some = np.flatnonzero([bool(text.strip()) for text in self.texts])
        if not len(some) or described.sum() < 2:
            return some[:0], np.zeros((0, rows.shape[1]))
        fitted = [text for text, is_there in zip(texts, described, strict=True) if is_there]
        asked = [self.texts[item] for item in some.tolist()]
        tells, found = text_map(fitted, rows[described], asked)
        return some[tells], found

    @cached_property
    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of the known items [I, W], those that made their ids, and of the new ones
        [N, W]: of length one, or zero for a known item of which nothing is known."""
        dataset = self.dataset
        texts = item_texts(dataset.items)
        known = item_vectors(dataset.training_sequences, texts, dataset.given_vectors)
        return known, item_vectors((), (), self.placed(known))


def text_map(
    texts: Sequence[str], rows: np.ndarray, asked: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Predict what texts have from what known ones [I] have, rows [I, W].

    Words are weighted by TF-IDF, of those that two texts have. The mean of two predictions: by a
    ridge regression on WIDTH leading directions, the penalty the best of PENALTIES by leaving one
    text out; and the mean of the NEAREST texts' rows, each by its cosine's power. Returns which of
    the texts that are asked have a word that is known, bool [N], and the rows of those that do.
    """
    import sklearn.utils.extmath  # noqa: F401  (before the limit, which holds for what is loaded)
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import RidgeCV
    from threadpoolctl import threadpool_limits

    weigh = TfidfVectorizer(sublinear_tf=True, min_df=2)
    try:
        words = weigh.fit_transform(texts)
    except ValueError:  # no two texts have a word in common
        return np.zeros(len(asked), bool), np.zeros((0, rows.shape[1]))
    new = weigh.transform(asked)
    tells = np.diff(new.indptr) > 0
    if not tells.any():
        return tells, np.zeros((0, rows.shape[1]))
    with threadpool_limits(1):  # the same sums whatever the number of cores
        directions = TruncatedSVD(min(WIDTH, *words.shape), n_iter=4, random_state=0)
        ridge = RidgeCV(PENALTIES).fit(directions.fit_transform(words), rows.astype(np.float64))
        found: np.ndarray = ridge.predict(directions.transform(new[tells]))
    similar = _similar(sp.csr_array(new[tells]), sp.csr_array(words)) @ rows.astype(np.float64)
    return tells, (found.reshape(similar.shape) + similar) / 2


def _similar(asked: sp.csr_array, known: sp.csr_array) -> sp.csr_array:
    """How much each known text counts for one that is asked, [N, I]; a row adds up to 1."""
    parts = []
    for first in range(0, asked.shape[0], _ROWS):
        cosines = sp.csr_array(asked[first : first + _ROWS] @ known.T).toarray()
        count = min(NEAREST, cosines.shape[1])
        nearest = np.argsort(-cosines.round(9), axis=1, kind="stable")[:, :count]
        weight = np.take_along_axis(cosines, nearest, axis=1) ** SHARPNESS
        weight /= weight.sum(axis=1, keepdims=True)
        starts = np.arange(0, nearest.size + 1, count)
        entries = (weight.ravel(), nearest.ravel(), starts)
        parts.append(sp.csr_array(entries, shape=cosines.shape))
    return sp.csr_array(sp.vstack(parts))
