"""TF-IDF vectors of texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

_BUCKETS = 2**18  # a word's column is its hash, so that many texts need no vocabulary in memory


class WordVectors:
    """Vectors of length 1, by how often a text says a word and how few of `fitted` say it.

    Words that none of `fitted` says, and those of one letter, do not count: a text of no others is
    a vector of zeros. phrases: up to how many neighbouring words also count as one.
    """

    def __init__(self, fitted: Sequence[str], phrases: int = 1):
        self._hashed = HashingVectorizer(
            n_features=_BUCKETS, ngram_range=(1, phrases), norm=None, alternate_sign=False
        )
        counts = self._hashed.transform(fitted)
        self._said = np.unique(counts.indices)
        self._weights = TfidfTransformer(sublinear_tf=True).fit(counts[:, self._said])

    def __call__(self, texts: Sequence[str]) -> sp.csr_array:
        """Return the vectors of texts, [N, words]."""
        counts = self._hashed.transform(texts)[:, self._said]
        return sp.csr_array(self._weights.transform(counts))
