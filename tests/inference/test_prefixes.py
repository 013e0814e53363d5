"""The beginnings of ids that a search continues, against each id's tokens by teacher forcing."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from small_model import padded, small_model, token_log_probabilities

from p5jax.inference.prefixes import search_steps
from p5jax.inference.ranking import Asked
from p5jax.inference.trie import Trie
from p5jax.models.t5 import init_params

VOCABULARY = 24
# Ids with a common beginning; a beginning of two or three tokens is shared by several.
IDS = [
    (7, 9, *tokens, 1) for n in (1, 2, 3) for tokens in itertools.product((3, 5, 8), repeat=n)
] + [(7, 9, 20, 3, 1)]
TRIE = Trie.build(IDS)
MODEL = small_model(VOCABULARY)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(lambda: init_params(MODEL, jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def truth(params):
    """The log-probability of each beginning that several ids share, but for the common one."""
    source = np.array([[4, 6, 11, 1]], np.int32)
    by_token = token_log_probabilities(MODEL, params, source, padded(IDS))[0]
    found = {}
    for item, tokens in enumerate(IDS):
        of_tokens = by_token[item, np.arange(len(tokens)), list(tokens)]
        for end in range(3, len(tokens)):
            if sum(other[:end] == tokens[:end] for other in IDS) > 1:
                found[tokens[:end]] = of_tokens[:end].sum()
    return source, found


NOTHING = np.full((1, 1), -1, np.int32)


def test_a_search_that_is_wide_enough_continues_all_of_them(params, truth):
    source, expected = truth
    steps = search_steps(MODEL, params, Asked(source, TRIE), 64, NOTHING)
    found = {prefix.tokens: prefix for step in steps for prefix in step.entered}
    assert found.keys() == expected.keys()
    assert [step.prefixes for step in steps] == [3, 9]
    for tokens, prefix in found.items():
        assert prefix.items == sum(id[: len(tokens)] == tokens for id in IDS)
        assert prefix.logp == pytest.approx(expected[tokens], abs=1e-4)
    for step in steps:
        assert [each.logp for each in step.entered] == sorted(
            (each.logp for each in step.entered), reverse=True
        )


def test_a_narrow_one_continues_the_most_probable(params, truth):
    source, expected = truth
    first, second = search_steps(MODEL, params, Asked(source, TRIE), 2, NOTHING)
    best = sorted((t for t in expected if len(t) == 3), key=lambda t: -expected[t])[:2]
    assert [prefix.tokens for prefix in first.entered] == best
    below = [t for t in expected if len(t) == 4 and t[:3] in best]
    best = sorted(below, key=lambda t: -expected[t])[:2]
    assert [prefix.tokens for prefix in second.entered] == best


def test_where_nothing_may_be_recommended_nothing_is_continued(params, truth):
    source, expected = truth
    gone = [item for item, id in enumerate(IDS) if id[:3] == (7, 9, 3)]
    steps = search_steps(MODEL, params, Asked(source, TRIE), 64, np.array([gone], np.int32))
    found = {prefix.tokens for step in steps for prefix in step.entered}
    assert found == {tokens for tokens in expected if tokens[:3] != (7, 9, 3)}
