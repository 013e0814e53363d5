"""Ranking by mixed probabilities against brute force over both parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import log_probabilities
from test_ranking import CATALOGUES, IDS, MODEL, TRIE, TRIES, check, model_params, model_sources

from p5jax.core.errors import UserError
from p5jax.inference.mixing import Beside, Mixing, mixed
from p5jax.inference.ranking import rank, ranking_of, score_items
from p5jax.inference.search import Found

COUNT = 6  # items beside the model


def some_beside(rng, ids, mixing) -> Beside:
    """Random items of four users, some with equal shares, one user with few and one with none."""
    items = np.array([rng.permutation(len(ids))[:COUNT] for _ in range(4)], np.int32)
    shares = rng.choice([0.0, 0.1, 0.1, 0.4, rng.random()], items.shape)
    items[1, 2:], items[2] = -1, -1
    shares[items < 0] = 0
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-9)
    return Beside(items, shares, mixing)


def mixed_truth(truth, beside) -> np.ndarray:
    """Every item's mixed score [B, I], by the definition."""
    shares = np.zeros((len(truth), truth.shape[1] + 1))
    np.put_along_axis(shares, beside.items, beside.shares, axis=1)
    shares, mixing = shares[:, :-1], beside.mixing
    if mixing.rule == "product":
        return truth + mixing.weight * np.log(shares + mixing.floor)
    with np.errstate(divide="ignore"):
        both = np.log((1 - mixing.weight) * np.exp(truth) + mixing.weight * shares)
    return np.where(np.isneginf(truth), -np.inf, both)


MIXINGS = st.one_of(
    st.builds(Mixing, st.just("mixture"), st.sampled_from([0.0, 0.3, 0.9])),
    st.builds(
        Mixing, st.just("product"), st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([1e-6, 0.1])
    ),
)


def check_guarantees(seed, mixing, sharpness, twins, case, left, methods):
    (name, beam, k) = case
    ids, rng = CATALOGUES[name], np.random.default_rng(seed)
    params, sources = model_params(seed, sharpness, twins), model_sources(seed)
    truth = log_probabilities(MODEL, params, sources, ids)
    blocked = max(0, len(ids) - left)
    exclude = np.full((len(sources), len(IDS)), -1, np.int32)
    for user in range(len(sources)):
        exclude[user, :blocked] = rng.permutation(len(ids))[:blocked]
        truth[user, exclude[user, :blocked]] = -np.inf
    beside = some_beside(rng, ids, mixing)
    truth = mixed_truth(truth, beside)

    for method, exact in methods:
        trie = TRIES[name, method != "beam"]
        options = {"beam": beam, "exact": exact, "exclude": exclude, "beside": beside}
        ranking = rank(MODEL, params, sources, trie, k, method, **options)
        check(ranking, truth, k)
        assert ranking.exact.all() or not (exact or method == "exact")


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6), mixing=MIXINGS, sharpness=st.sampled_from([0.0, 1.0, 6.0]))
def test_a_guarantee_is_never_false(seed, mixing, sharpness):
    methods = [("certified", False), ("certified", True)]
    check_guarantees(seed, mixing, sharpness, True, ("flat", 5, 3), 20, methods)


@pytest.mark.check
@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    mixing=MIXINGS,
    sharpness=st.sampled_from([0.0, 1.0, 6.0]),
    twins=st.booleans(),
    case=st.sampled_from([("branching", 2, 1), ("branching", 8, 3), ("flat", 5, 3)]),
    left=st.sampled_from([1, 4, 20, len(IDS)]),
)
def test_a_guarantee_is_never_false_of_any_method(seed, mixing, sharpness, twins, case, left):
    methods = [("certified", False), ("beam", False), ("certified", True), ("exact", False)]
    check_guarantees(seed, mixing, sharpness, twins, case, left, methods)


# What a search of three pooled items found; item 8 was dropped, and is the bound.
FOUND = Found(
    np.array([[4, 7, 2], [1, 0, -1]]),
    np.array([[-2.0, -3.0, -4.0], [-1.0, -5.0, -np.inf]]),
    np.array([-4.5, -np.inf]),
)


def test_mixed_by_hand():
    beside = Beside(np.array([[7, 9], [0, -1]]), np.array([[0.5, 0.5], [1, 0]]), Mixing("mixture"))
    logp = np.array([[-3.0, -6.0], [-5.0, -np.inf]])
    found = mixed(FOUND, beside, logp, num_items=10)
    assert found.items.tolist() == [[7, 9, 4, 2, -1], [0, 1, -1, -1, -1]]
    e = np.exp
    first = [0.5 * e(-3.0) + 0.25, 0.5 * e(-6.0) + 0.25, 0.5 * e(-2.0), 0.5 * e(-4.0)]
    np.testing.assert_allclose(found.logp[0, :4], np.log(first), rtol=1e-6)
    second = [0.5 * e(-5.0) + 0.5, 0.5 * e(-1.0)]
    np.testing.assert_allclose(found.logp[1, :2], np.log(second), rtol=1e-6)
    np.testing.assert_allclose(found.bound, [np.log(0.5) - 4.5, -np.inf], rtol=1e-6)


@pytest.mark.parametrize(
    ("bound", "guaranteed"), [(-4.5, True), (-4.0 - 1e-5, False), (-3.9, False)]
)
@pytest.mark.parametrize("mixing", [Mixing("mixture", 0.2), Mixing("product", 0.7, 1e-4)])
def test_a_list_is_guaranteed_above_the_mixed_bound_alone(mixing, bound, guaranteed):
    found = FOUND._replace(bound=np.array([bound, -np.inf]))
    beside = Beside(np.array([[7, 9], [0, -1]]), np.zeros((2, 2)), mixing)
    logp = np.array([[-3.0, -6.0], [-5.0, -np.inf]])
    ranking = ranking_of(mixed(found, beside, logp, 10), 3, "float32")
    assert ranking.items[0].tolist() == [4, 7, 2]
    assert ranking.exact.tolist() == [guaranteed, True]


def test_an_item_that_the_search_dropped_is_lifted_and_still_guaranteed():
    """Item 8 is beside the model: it is scored, though the search dropped it."""
    beside = Beside(np.array([[8], [8]]), np.ones((2, 1)), Mixing("product", 1.0, 1e-3))
    found = mixed(FOUND, beside, np.array([[-4.5], [-9.0]]), 10)
    ranking = ranking_of(found, 2, "float32")
    assert ranking.items.tolist() == [[8, 4], [1, 8]]
    assert ranking.exact.all()


def test_of_equal_mixed_scores_the_first_of_the_catalogue_is_first():
    found = Found(np.array([[5, 6]]), np.array([[-2.0, -3.0]]), np.array([-9.0]))
    beside = Beside(np.array([[6, 3, 1]]), np.array([[0.4, 0.3, 0.3]]), Mixing("mixture", 0.5))
    logp = np.array([[-3.0, -4.0, -4.0]])
    assert mixed(found, beside, logp, 10).items.tolist() == [[6, 1, 3, 5, -1]]


@pytest.fixture(scope="module")
def scored():
    params, sources = model_params(), model_sources()
    return params, sources, log_probabilities(MODEL, params, sources, IDS)


def test_of_candidates_only_those_are_lifted(scored):
    params, sources, truth = scored
    rng = np.random.default_rng(0)
    beside = some_beside(rng, IDS, Mixing("mixture", 0.8))
    candidates = np.concatenate([beside.items[:, :2], rng.integers(0, len(IDS), (4, 6))], axis=1)
    expected = np.take_along_axis(mixed_truth(truth, beside), candidates, axis=1)
    expected[candidates < 0] = -np.inf
    found = score_items(MODEL, params, sources, TRIE, candidates.astype(np.int32), beside=beside)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rule": "sum"}, "Mixing.rule: found 'sum', expected mixture or product"),
        ({"rule": "mixture", "weight": 1.0}, "Mixing.weight: found 1 of a mixture, expected 0 to"),
        ({"weight": -0.1}, "Mixing.weight: found -0.1, expected 0 or more"),
        ({"floor": 0.0}, "Mixing.floor: found 0"),
    ],
)
def test_bad_rules_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        Mixing(**settings)


def test_items_beside_that_are_none_are_refused(scored):
    params, sources, _ = scored
    beside = Beside(np.full((4, 1), len(IDS)), np.ones((4, 1)), Mixing())
    with pytest.raises(UserError, match=f"beside: found items {len(IDS)}"):
        rank(MODEL, params, sources, TRIE, 3, beam=8, beside=beside)
