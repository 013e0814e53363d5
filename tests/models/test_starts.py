"""A start from counts: id tokens and pieces begin at their vectors, and nothing else does."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from p5jax.core.errors import UserError
from p5jax.models.starts import token_means, with_item_vectors, with_word_vectors
from p5jax.text.vocabulary import Vocabulary

RNG = np.random.default_rng(0)
IDS = [f"<s0_{a}><s1_{b}>" for a, b in [(0, 0), (0, 1), (1, 0), (1, 2), (2, 1), (2, 2), (3, 3)]]
VECTORS = np.concatenate([RNG.standard_normal((6, 5)), np.zeros((1, 5))])  # the last is unknown
TOKENS = [f"<s{level}_{code}>" for level in range(2) for code in range(4)]


@pytest.fixture(scope="module")
def vocabulary(world_vocabulary):
    return Vocabulary(world_vocabulary.model, TOKENS)


def params(vocabulary, width, scale=1.0):
    table = scale * np.random.default_rng(1).standard_normal((vocabulary.padded_size, width))
    return {
        "token_embedder": {"embedding": jax.numpy.asarray(table, np.float32)},
        "decoder": {"decoder_norm": {"scale": np.ones(width, np.float32)}},
    }


def brute_force_means():
    """Item by item: the mean vector of the known items whose text has the token."""
    means = []
    for token in TOKENS:
        own = [VECTORS[i] for i, text in enumerate(IDS) if token in text and VECTORS[i].any()]
        means.append(np.mean(own, axis=0) if own else np.zeros(5))
    return np.array(means)


def test_a_token_has_the_mean_of_its_items(vocabulary):
    np.testing.assert_allclose(token_means(vocabulary, IDS, VECTORS), brute_force_means())


@pytest.mark.parametrize(("width", "scale"), [(5, 1.0), (8, 0.25)])
def test_only_the_rows_of_known_id_tokens_change(vocabulary, width, scale):
    """They are the level's means up to a rotation and a factor, at the embedding's deviation."""
    before = params(vocabulary, width, scale)
    after = with_item_vectors(before, vocabulary, IDS, VECTORS, seed=0)
    old = np.asarray(before["token_embedder"]["embedding"])
    new = np.asarray(after["token_embedder"]["embedding"])
    known = brute_force_means().any(axis=1)
    rows = vocabulary.size - len(TOKENS) + np.flatnonzero(known)
    assert set(np.flatnonzero((old != new).any(axis=1))) == set(rows)
    assert len(rows) == 6  # neither of the unknown item's tokens
    assert after["decoder"] is before["decoder"] or after["decoder"] == before["decoder"]
    for level in range(2):
        means = brute_force_means()[known][3 * level : 3 * level + 3]
        found = new[rows][3 * level : 3 * level + 3]
        means = means - means.mean(axis=0)
        factor = np.linalg.norm(found) / np.linalg.norm(means)
        np.testing.assert_allclose(found @ found.T, factor**2 * means @ means.T, atol=1e-5)
        assert found.std() == pytest.approx(old.std(), rel=1e-3)


def test_a_narrow_model_keeps_the_leading_directions(vocabulary):
    after = with_item_vectors(params(vocabulary, 2), vocabulary, IDS, VECTORS, seed=0)
    first = vocabulary.size - len(TOKENS)
    means = brute_force_means()
    blocks = [rows[means[rows].any(axis=1)] for rows in np.split(np.arange(8), 2)]
    centred = np.concatenate([means[rows] - means[rows].mean(axis=0) for rows in blocks])
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    best = left[:, :2] * values[:2]
    found = np.asarray(after["token_embedder"]["embedding"])[first + np.concatenate(blocks)]
    for rows in (slice(0, 3), slice(3, 6)):
        products = best[rows] @ best[rows].T
        own = found[rows] @ found[rows].T
        np.testing.assert_allclose(own / np.trace(own), products / np.trace(products), atol=1e-5)


def test_the_same_on_any_number_of_cores_and_for_a_seed(vocabulary):
    rng = np.random.default_rng(2)
    ids = [f"<s0_{a}><s1_{b}>" for a in range(4) for b in range(4)]
    vectors = rng.standard_normal((16, 200))
    made = []
    for threads, seed in ((1, 0), (2, 0), (2, 1)):
        with threadpool_limits(threads):
            found = with_item_vectors(params(vocabulary, 64), vocabulary, ids, vectors, seed)
            made.append(np.asarray(found["token_embedder"]["embedding"]))
    np.testing.assert_array_equal(made[0], made[1])
    assert (made[1] != made[2]).any()


def test_ids_without_tokens_and_items_without_vectors_are_refused(vocabulary, world_vocabulary):
    numeric = Vocabulary(world_vocabulary.model)
    with pytest.raises(UserError, match=r"StartConfig.item_vectors: found item ids .* numbers"):
        with_item_vectors(params(numeric, 4), numeric, ["1", "2"], VECTORS[:2], 0)
    with pytest.raises(UserError, match="found no item with a vector"):
        with_item_vectors(params(vocabulary, 4), vocabulary, IDS, 0 * VECTORS, 0)


def test_only_the_rows_of_known_pieces_change(vocabulary):
    """They are the vectors at length one, less their mean, up to a rotation and a factor."""
    vectors = np.random.default_rng(2).standard_normal((vocabulary.num_pieces, 6))
    vectors[::3] = 0
    before = params(vocabulary, 8, 0.25)
    after = with_word_vectors(before, vectors, seed=0)
    old = np.asarray(before["token_embedder"]["embedding"])
    new = np.asarray(after["token_embedder"]["embedding"])
    known = np.flatnonzero(vectors.any(axis=1))
    assert set(np.flatnonzero((old != new).any(axis=1))) == set(known)
    assert after["decoder"] == before["decoder"]
    expected = vectors[known] / np.linalg.norm(vectors[known], axis=1, keepdims=True)
    expected -= expected.mean(axis=0)
    factor = np.linalg.norm(new[known]) / np.linalg.norm(expected)
    np.testing.assert_allclose(
        new[known] @ new[known].T, factor**2 * expected @ expected.T, atol=1e-5
    )
    assert new[known].std() == pytest.approx(old.std(), rel=1e-3)
    with pytest.raises(UserError, match=r"StartConfig.word_vectors: found no two words"):
        with_word_vectors(before, 0 * vectors, seed=0)
