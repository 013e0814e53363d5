"""Items that join a catalogue without training: where they stand among those that are known.

A new item is where the known items are that it occurs with, each by its nearness. One that occurs
with none is where its text says, by a ridge regression of what the known items have on their texts;
and one without a text of known words is in the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from p5jax.data.dataset import Dataset
from p5jax.data.item_vectors import WIDTH, item_texts, item_vectors, near_pairs

PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of which a ridge takes the best


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
        weight = np.asarray(near.sum(axis=1))
        occurs = weight > 0
        told, by_text = self._by_text(rows, np.flatnonzero(~occurs))
        placed = np.tile(rows.astype(np.float64).mean(axis=0), (count, 1))
        placed[told] = by_text
        placed[occurs] = (near[occurs] @ rows) / weight[occurs, None]
        return placed

    def _by_text(self, rows: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the new items that are asked have a text that tells, and what they get."""
        texts = item_texts(self.dataset.items)
        described = np.array([bool(text.strip()) for text in texts])
        some = asked[[bool(self.texts[item].strip()) for item in asked]] if len(asked) else asked
        if not len(some) or described.sum() < 2:
            return asked[:0], np.zeros((0, rows.shape[1]))
        fitted = [text for text, is_there in zip(texts, described, strict=True) if is_there]
        tells, found = text_map(fitted, rows[described], [self.texts[item] for item in some])
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
    """Predict what texts have, by a ridge regression of rows [I, W] on the words of texts [I].

    Words are weighted by TF-IDF, of those that two texts have, in WIDTH leading directions; the
    penalty is the best of PENALTIES by leaving one text out. Returns which of the texts that are
    asked have a word that is known, bool [N], and the rows of those that do.
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
    return tells, found.reshape(int(tells.sum()), -1)
