"""Which items stand near which: in training sequences, and by their texts.

Sequences: of two items of a user, the nearer they are, the more; frequent items are damped. Texts:
the cosine of TF-IDF of title, brand and categories, as STAR (arXiv 2410.16458) has it of vectors,
a little less for items that few have bought.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from p5jax.data.dataset import Dataset
from p5jax.memory.histories import Histories, neighbours, summed, summed_pairs

RECENT, DECAY, DAMPING, BACKWARD = 20, 0.6, 0.3, 0.5
NEAREST_TEXTS = 50  # of an item
USUAL = 4  # interactions beside an item's own; fewer would hide new items
_WORD = re.compile(r"[^\W_]+")
_FREQUENT = 100, 2_000  # items of a word that tells something, in a small and a large catalogue
_ROWS = 512  # of similarities at a time
_UNITS = 2 * math.lcm(*range(1, 21))  # of nearness in 1: its halves to a distance of 20 are whole
_STEPS = 10**9  # cosines are whole numbers of these: sums of equal terms are equal


def pairs(dataset: Dataset, rows: range | None = None) -> sp.csr_array:
    """Sum 1 / distance over pairs of training positions, less where they go backward: [I, I].

    rows: of the matrix, the others being empty (default: all).
    """
    return _in_ones(neighbours(dataset, None, _nearness, rows=rows))


def pairs_of(sequences: Sequence[np.ndarray], num_items: int) -> sp.csr_array:
    """Sum the same over pairs of positions of sequences of item indices: [I, I]."""
    users = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    return _in_ones(summed_pairs(np.concatenate(sequences), users, num_items, None, _nearness))


def _nearness(distance: int) -> tuple[float, float]:
    """Whole numbers of units, whose sums are exact, so the same in any order."""
    return float(round(_UNITS / distance)), float(round(BACKWARD * _UNITS / distance))


def _in_ones(units: sp.csr_array) -> sp.csr_array:
    units.data /= _UNITS  # what scipy would multiply by a rounded reciprocal
    return units


def damped(near: sp.csr_array, counts: np.ndarray) -> sp.csr_array:
    """Divide each sum of pairs by powers of its items' counts [I]: [I, I]."""
    factors, found = np.maximum(counts, 1.0) ** -DAMPING, near.copy()
    found.data *= np.repeat(factors, np.diff(found.indptr))
    found.data *= factors[found.indices]
    return found


def shrunk(near: sp.csr_array, counts: np.ndarray) -> sp.csr_array:
    """Shrink nearness by text [I, I] the more, the fewer interactions [I] the column's item has.

    With none it keeps four fifths: new items, for which texts alone speak, are recommended at next
    to no cost to the others (chosen on validation users).
    """
    return sp.csr_array(near @ sp.diags_array((counts + USUAL) / (counts + USUAL + 1)))


def recent_items(cases: Histories, length: int, num_items: int) -> sp.csr_array:
    """Weight DECAY ** d on the d-th item from each history's end: [users, I]."""
    parts = [(users, items, DECAY**d) for d, users, items in cases.recent(length)]
    return summed(parts, (len(cases.first), num_items))


def near_texts(texts: list[str], nearest: int = NEAREST_TEXTS) -> sp.csr_array:
    """Return the cosine of each text's TF-IDF with those of the texts nearest to it: [I, I].

    Words of more than a tenth of the items, but of 100 or more, tell nothing, nor do those of more
    than 2,000 items, so that the time grows as the catalogue does. An item is not near itself; of
    equals the first in the catalogue is nearer.
    """
    count, vectors = len(texts), _tf_idf(texts)
    if not vectors.nnz:
        return sp.csr_array((count, count), dtype=np.float64)
    by_word = sp.csr_array(vectors.T)
    items, values, counts = [], [], []
    for first in range(0, count, _ROWS):
        cosines = sp.csr_array(vectors[first : first + _ROWS] @ by_word)
        for row, start in enumerate(cosines.indptr[:-1]):
            entries = slice(start, cosines.indptr[row + 1])
            others = cosines.indices[entries]
            steps = np.round(cosines.data[entries] * _STEPS).astype(np.int64)
            steps[others == first + row] = 0
            key = steps * count - others  # of equals the first
            best = np.argpartition(-key, min(nearest, len(key)) - 1)[:nearest] if len(key) else key
            best = best[steps[best] > 0]
            items.append(others[best])
            values.append(steps[best] / _STEPS)
            counts.append(len(best))
    indptr = np.concatenate([[0], np.cumsum(counts)])
    near = (np.concatenate(values), np.concatenate(items), indptr)
    return sp.csr_array(near, shape=(count, count))


def _tf_idf(texts: list[str]) -> sp.csr_array:
    """Unit vectors [I, words], all zero for a text without words that tell."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes a second to import

    if not any(map(_WORD.search, texts)):
        return sp.csr_array((len(texts), 1), dtype=np.float64)
    weigh = TfidfVectorizer(sublinear_tf=True, norm=None, token_pattern=_WORD.pattern)
    vectors = sp.csr_array(weigh.fit_transform(texts))
    frequency = np.bincount(vectors.indices, minlength=vectors.shape[1])
    vectors = vectors[:, np.flatnonzero(frequency <= np.clip(len(texts) // 10, *_FREQUENT))]
    norms = np.sqrt(vectors.multiply(vectors).sum(axis=1))
    return sp.csr_array(sp.diags_array(1 / np.where(norms > 0, norms, 1)) @ vectors)


def top_of_rows(rows: np.ndarray, items: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Return the positions of each row's `count` largest values, the largest first, then by item.

    rows, items, values [N]: a sparse matrix's entries.
    """
    order = np.lexsort((items, -values, rows))
    starts = np.searchsorted(rows[order], rows[order])  # where each entry's row begins
    kept: np.ndarray = order[np.arange(len(order)) - starts < count]
    return kept


def tied(values: np.ndarray) -> np.ndarray:
    """Round, so that sums of the same terms in another order are equal: 40 of the 53 bits stay."""
    mantissa, exponent = np.frexp(values)
    rounded: np.ndarray = np.ldexp(np.round(mantissa * 2.0**40), exponent - 40)
    return rounded
