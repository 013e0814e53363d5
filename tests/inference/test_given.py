"""Rankings that go on from what an answer begins with, against decoding whole answers alone."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from small_model import padded, small_model, token_log_probabilities

from p5jax.core.errors import UserError
from p5jax.inference.ranking import rank, score_items
from p5jax.inference.trie import Trie
from p5jax.models.t5 import init_params

VOCABULARY = 24
TOKENS = [(token,) for token in range(4, VOCABULARY)]  # one token an item, nothing after it
PATHS = [(a, 10 + b, c) for a, b, c in itertools.product((4, 5, 6), (0, 3, 7), (2, 8, 9))]
GIVEN = [(), (9,), (4, 13, 8, 6, 10, 2), (5, 17, 9)]
MODEL = small_model(VOCABULARY)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_params(MODEL, jax.random.key(0)))
    return jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def sources():
    tokens = np.random.default_rng(1).integers(2, VOCABULARY, (4, 7)).astype(np.int32)
    tokens[2, 3:] = 0
    return tokens


def begun(width):
    """GIVEN, padded with -1 at the beginning."""
    return np.array([[-1] * (width - len(row)) + list(row) for row in GIVEN], np.int32)


def truth(params, sources, ids):
    """The log-probability of every id after what is given [B, I], each answer decoded alone."""
    rows = []
    for source, before in zip(sources, GIVEN, strict=True):
        answers = padded([(*before, *tokens) for tokens in ids])
        by_token = token_log_probabilities(MODEL, params, source[None], answers)[0]
        chosen = np.take_along_axis(by_token, answers[:, :, None], axis=2)[..., 0]
        rows.append(chosen[:, len(before) :].sum(axis=1))
    return np.array(rows)


@pytest.mark.parametrize("ids", [TOKENS, PATHS], ids=["tokens", "paths"])
@pytest.mark.parametrize("method", ["certified", "exact", "beam"])
def test_ids_are_ranked_by_their_probability_after_what_is_given(params, sources, ids, method):
    expected = truth(params, sources, ids)
    trie = Trie.build(ids, collapse=method != "beam")
    found = rank(MODEL, params, sources, trie, 6, method, given=begun(8), beam=len(ids))
    np.testing.assert_array_equal(found.items, np.argsort(-expected, axis=1)[:, :6])
    np.testing.assert_allclose(found.logp, -np.sort(-expected, axis=1)[:, :6], atol=1e-4)
    assert found.exact.all() or method == "beam"


def test_padding_before_what_is_given_changes_nothing(params, sources):
    trie = Trie.build(PATHS)
    asked = np.tile(np.arange(len(PATHS)), (4, 1))
    narrow = score_items(MODEL, params, sources, trie, asked, begun(6))
    wide = score_items(MODEL, params, sources, trie, asked, begun(32))
    np.testing.assert_allclose(narrow, truth(params, sources, PATHS), atol=1e-4)
    np.testing.assert_allclose(wide, narrow, atol=1e-5)


def test_given_tokens_of_other_users_are_refused(params, sources):
    with pytest.raises(UserError, match=r"given: found the shape \(3, 8\), expected \(4, any\)"):
        rank(MODEL, params, sources, Trie.build(PATHS), 3, given=begun(8)[:3])
