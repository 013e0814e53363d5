"""Item vectors: what is alike by dense sums over every pair, and files of given vectors."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from threadpoolctl import threadpool_limits

from p5jax.core.errors import UserError
from p5jax.data.item_vectors import item_texts, item_vectors, read_item_vectors

SEQUENCES = [np.array(s) for s in ([0, 1, 2, 3], [1, 0, 2], [4, 5], [5, 4, 3], [2], [])]
TEXTS = ["red tea", "red cup", "", "green tea pot", "green pot", "blue cup", "blue red pot"]


def unit(vectors):
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 1e-9)


def dense_co_occurrence(sequences, num_items):
    """The normalised adjacency, pair by pair."""
    weights = np.zeros((num_items, num_items))
    for sequence in sequences:
        for a in range(len(sequence)):
            for b in range(len(sequence)):
                if 0 < abs(a - b) <= 10:
                    weights[sequence[a], sequence[b]] += 1 / abs(a - b)
    degree = weights.sum(axis=1)
    root = np.sqrt(np.where(degree > 0, degree, 1))
    return weights / root[:, None] / root


def positive_part(matrix):
    """The nearest products of vectors to a symmetric matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.maximum(values, 0) @ vectors.T


def likeness(matrix):
    """The products of the rows' left singular vectors times the roots of the values: |M|."""
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    return left * values @ left.T


def cosines(products):
    """Products of vectors as those of vectors of length one."""
    norms = np.sqrt(np.maximum(np.diag(products), 0))
    divisor = np.outer(norms, norms)
    return np.divide(products, divisor, out=np.zeros_like(products), where=divisor > 1e-9)


def dense_tf_idf(texts):
    """(1 + log tf) (1 + log((1 + n) / (1 + df))), rows of length one, of words of two items."""
    words = sorted({word for text in texts for word in text.split()})
    counts = np.array([[text.split().count(word) for word in words] for text in texts], float)
    counts = counts[:, (counts > 0).sum(axis=0) > 1]
    idf = 1 + np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0)))
    return unit(np.where(counts > 0, 1 + np.log(np.maximum(counts, 1)), 0) * idf)


def test_likeness_is_that_of_dense_sums():
    found = item_vectors(SEQUENCES, [""] * 7)
    expected = cosines(positive_part(dense_co_occurrence(SEQUENCES, 7)))
    np.testing.assert_allclose(found @ found.T, expected, atol=1e-5)
    assert not found[6].any()  # the item that nobody has


def test_texts_count_as_much_as_interactions():
    found = item_vectors(SEQUENCES, TEXTS)
    both = cosines(positive_part(dense_co_occurrence(SEQUENCES, 7))) + cosines(
        likeness(dense_tf_idf(TEXTS))
    )
    np.testing.assert_allclose(found @ found.T, cosines(both), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("texts", [["", ""], ["one", "two"], ["?", "!"]])
def test_without_anything_in_common_vectors_are_zero(texts):
    assert not item_vectors([np.array([0]), np.array([1])], texts).any()


def test_the_leading_directions_of_a_larger_catalogue_and_the_cores():
    """More items than directions: the products are those of the best approximation."""
    rng = np.random.default_rng(0)
    sequences = [rng.integers(5) * 40 + rng.choice(40, 6, replace=False) for _ in range(600)]
    with threadpool_limits(1):
        alone = item_vectors(sequences, [""] * 200)
    with threadpool_limits(2):
        np.testing.assert_array_equal(item_vectors(sequences, [""] * 200), alone)
    assert alone.shape == (200, 128)
    values, vectors = np.linalg.eigh(dense_co_occurrence(sequences, 200))
    best = unit(vectors[:, -128:] * np.sqrt(np.maximum(values[-128:], 0)))
    apart = ~np.eye(200, dtype=bool)
    assert np.corrcoef((alone @ alone.T)[apart], (best @ best.T)[apart])[0, 1] > 0.95


def test_given_vectors_stand_in_their_place():
    given = np.array([[3.0, 4.0], [0, 0], [0, -2]], np.float32)
    found = item_vectors([np.array([0, 1, 2])], ["a b"] * 3, given)
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [0, -1]])


def test_texts_of_a_table():
    columns = {"title": ["Tea", None], "brand": [None, None], "categories": ["Drinks", None]}
    assert item_texts(pa.table({k: pa.array(v, pa.string()) for k, v in columns.items()})) == [
        "Tea Drinks",
        "",
    ]


def table(keys, vectors):
    return pa.table({"key": keys, "vector": pa.array(vectors, pa.list_(pa.float64()))})


def test_files_of_vectors(tmp_path):
    rows = np.arange(6.0).reshape(3, 2)
    np.save(tmp_path / "v.npy", rows)
    np.testing.assert_array_equal(read_item_vectors(tmp_path / "v.npy", ["a", "b", "c"]), rows)
    pq.write_table(table(["c", "x", "a"], [rows[2], [9, 9], rows[0]]), tmp_path / "v.parquet")
    found = read_item_vectors(tmp_path / "v.parquet", ["a", "c"])
    np.testing.assert_array_equal(found, rows[[0, 2]])
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (np.zeros((2, 4)), r"found float64 of shape \(2, 4\), expected .* of shape \(3, any\)"),
        (np.zeros((3, 4), int), "found int64 of shape"),
        (np.full((3, 4), np.nan), "found a number that is not finite"),
        (np.full((3, 4), 1e300), "found a number that is not finite"),
        (np.zeros((3, 0)), "found vectors of no numbers"),
        (table(["a", "b"], [[1.0], [2.0]]), "found no vector for 1 of 3 items .* e.g. 'c'"),
        (table([*"abca"], [[1.0]] * 4), "found item 'a' twice"),
        (table([*"abc"], [[1.0], [2.0, 3.0], [4.0]]), "found 2 numbers for item 'b', expected 1"),
        (table([*"abc"], [[1.0], [None], [4.0]]), "item 'b': found a number that is not finite"),
        (table([*"abc"], [[1.0], [1e300], [4.0]]), "found a number that is not finite"),
        (table([*"abc"], [[]] * 3), "found vectors of no numbers"),
        (pa.table({"key": [*"abc"]}), "column 'vector' is missing"),
    ],
)
def test_a_file_that_does_not_match_is_refused(tmp_path, made, message):
    if isinstance(made, np.ndarray):
        path = tmp_path / "v.npy"
        np.save(path, made)
    else:
        path = tmp_path / "v.parquet"
        pq.write_table(made, path)
    with pytest.raises(UserError, match=message) as caught:
        read_item_vectors(path, [*"abc"])
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("name", ["none.npy", "none.parquet", "v.csv"])
def test_no_such_file(tmp_path, name):
    with pytest.raises(UserError, match=f"{name}: found .*expected|{name}: not found, expected"):
        read_item_vectors(tmp_path / name, ["a"])
