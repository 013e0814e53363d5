"""Item vectors: what items are alike, counted from training sequences and item texts.

A truncated SVD of the training co-occurrence and one of the items' TF-IDF texts, side by side. They
shape semantic ids and, if asked, the first embeddings of id tokens. Vectors that a user gives, or
that a text encoder makes, stand in their place.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from p5jax.core.errors import UserError, nearest
from p5jax.core.tables import read_array, read_parquet

WIDTH = 128  # of each SVD
WINDOW = 10  # positions between two items of a sequence that still occur together
VECTOR = "vector"  # the column of the items that holds given vectors
_EXPECTED = "item vectors"
_FILE = pa.schema(
    [pa.field("key", pa.string(), False), pa.field(VECTOR, pa.list_(pa.float32()), False)]
)


def item_vectors(
    train_sequences: Sequence[np.ndarray],
    texts: Sequence[str],
    given: np.ndarray | None = None,
) -> np.ndarray:
    """Return a vector for each item, float64 [I, W], of length one or, of an unknown item, zero.

    train_sequences: per user the training items in time order; texts: of each item, "" where there
    is none. given: [I, W] vectors that take the place of those that are counted. The same on any
    number of cores: rounded sums of one thread.
    """
    if given is not None:
        return _unit(given)
    import sklearn.utils.extmath  # noqa: F401  (before the limit, which holds for what is loaded)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        parts = [_interaction_vectors(train_sequences, len(texts))]
        if any(texts):
            parts.append(_text_vectors(texts))
    return _unit(np.concatenate([_unit(part) for part in parts], axis=1))


def item_texts(items: pa.Table) -> list[str]:
    """Return title, brand and categories of each row of an items table as one text."""
    columns = [items[name].to_pylist() for name in ("title", "brand", "categories")]
    return [" ".join(filter(None, row)) for row in zip(*columns, strict=True)]


def read_item_vectors(path: str | os.PathLike[str], keys: Sequence[str]) -> np.ndarray:
    """Return the vectors of the items with these keys from a file, float32 [I, W].

    path: .npy, a row for each item in the order of items.parquet, or .parquet with the columns
    `key` and `vector`, in any order and for more items. UserError when an item has no vector or
    two, or vectors are of different lengths or not finite.
    """
    if Path(path).suffix == ".npy":
        types, shape = (np.float32, np.float64, np.float16), (len(keys), None)
        found = read_array(path, types, shape, f"{_EXPECTED}, a row for each item of the catalogue")
    elif Path(path).suffix == ".parquet":
        found = _from_table(path, keys)
    else:
        raise UserError(
            f"{path}: found another kind of file, expected {_EXPECTED}, .npy or .parquet"
        )
    if not found.shape[1]:
        raise UserError(f"{path}: found vectors of no numbers, expected {_EXPECTED}")
    with np.errstate(over="ignore"):  # of a float64: it is infinite then
        found = found.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(bad):
        raise UserError(f"{path}: item {keys[bad[0]]!r}: found a number that is not finite")
    return found


def _from_table(path: str | os.PathLike[str], keys: Sequence[str]) -> np.ndarray:
    table = read_parquet(path, _FILE, f"{_EXPECTED}, the columns key and {VECTOR}")
    row_of: dict[str, int] = {}
    for row, key in enumerate(table["key"].to_pylist()):
        if row_of.setdefault(key, row) != row:
            raise UserError(f"{path}: found item {key!r} twice, expected one vector for each item")
    missing = [key for key in keys if key not in row_of]
    if missing:
        raise UserError(
            f"{path}: found no vector for {len(missing)} of {len(keys)} items of the catalogue,"
            f" e.g. {missing[0]!r}{nearest(missing[0], row_of)}"
        )
    vectors = table[VECTOR].take([row_of[key] for key in keys]).to_pylist()
    width = len(vectors[0]) if vectors else 0
    for key, vector in zip(keys, vectors, strict=True):
        if len(vector) != width:
            raise UserError(
                f"{path}: found {len(vector)} numbers for item {key!r}, expected {width} as for"
                f" {keys[0]!r}"
            )
    return np.array(vectors, np.float64).reshape(len(keys), width)  # NaN for None


def near_pairs(sequences: Sequence[np.ndarray], num_items: int) -> sp.csr_array:
    """Sum 1 / distance over the pairs of positions of a sequence that are near, symmetric [I, I].

    sequences: items of each user in time order.
    """
    lengths = [len(sequence) for sequence in sequences]
    users = np.repeat(np.arange(len(lengths)), lengths)
    items = np.concatenate([np.zeros(0, np.int64), *sequences]).astype(np.int64)
    shape = (num_items, num_items)
    pairs = sp.csr_array(shape, dtype=np.float64)
    for distance in range(1, min(WINDOW, max(lengths, default=0) - 1) + 1):
        starts = np.flatnonzero(users[:-distance] == users[distance:])
        values = np.full(len(starts), 1 / distance)
        pairs = pairs + sp.csr_array((values, (items[starts], items[starts + distance])), shape)
    return sp.csr_array(pairs + pairs.T)


def _interaction_vectors(train_sequences: Sequence[np.ndarray], num_items: int) -> np.ndarray:
    """Return vectors [I, W] whose products come nearest to the normalised co-occurrence.

    An item's entry with another is that of near_pairs, divided by the root of both items' sums.
    """
    pairs = near_pairs(train_sequences, num_items)
    degree = np.asarray(pairs.sum(axis=1)).ravel()
    scale = sp.diags_array((degree > 0) / np.sqrt(np.maximum(degree, 1e-12)))
    known = sp.diags_array((degree > 0).astype(np.float64))
    # Its eigenvalues are from -1 to 1: with one added, the largest are the leading ones.
    left, values = leading_directions(sp.csr_array(scale @ pairs @ scale + known))
    scaled: np.ndarray = left * np.sqrt(np.maximum(values - 1, 0))
    return scaled


def _text_vectors(texts: Sequence[str]) -> np.ndarray:
    """Return vectors [I, W] from the weighted words of texts, of those that two texts have."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        words = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform(texts)
    except ValueError:  # no two texts have a word in common
        return np.zeros((len(texts), 0))
    left, values = leading_directions(sp.csr_array(words))
    scaled: np.ndarray = left * np.sqrt(values)
    return scaled


def leading_directions(matrix: sp.csr_array, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Return the leading left singular vectors [I, W] and their values [W], `width` at most.

    Halko, Martinsson and Tropp (2011), from a fixed start; of each vector the largest number is
    positive.
    """
    from sklearn.utils.extmath import randomized_svd

    width = min(width, *matrix.shape)
    if not width:
        return np.zeros((matrix.shape[0], 0)), np.zeros(0)
    left, values, _ = randomized_svd(matrix, width, n_iter=4, random_state=0, flip_sign=True)
    return left, values


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length one, but for rows of zeros, and round them: rounding noise is no
    difference."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    scaled: np.ndarray = np.round(vectors / np.maximum(norms, 1e-9), 6) + 0.0
    return scaled
