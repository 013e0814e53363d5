"""Ranking against scoring every item alone by teacher forcing."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import log_probabilities, padded, small_model, token_log_probabilities

from p5jax.core.errors import UserError
from p5jax.data.item_ids import IdSource, assign_item_ids, id_tokens
from p5jax.inference.allowed import allowed_items
from p5jax.inference.ranking import rank, ranking_of, score_all, score_items
from p5jax.inference.search import Found, Width, search_trie
from p5jax.inference.trie import Trie
from p5jax.models.t5 import init_params
from p5jax.text.vocabulary import Vocabulary

VOCABULARY = 24
# Ids of 3 to 6 tokens with a common beginning; many are token prefixes of others, as decimal ids
# are, and the last three have long tails of their own.
IDS = [
    (7, 9, *tokens, 1)
    for n in (1, 2, 3)
    for tokens in itertools.product((3, 5, 8, 13), repeat=n)
    if sum(tokens) % 3
] + [(7, 9, 20, 3, 3, 1), (7, 9, 21, 5, 1), (7, 9, 13, 20, 4, 1)]
# Ids that part at once, with tails of two tokens: what is dropped is items alone, never nodes.
FLAT = [(first, 2 + first * 7 % 20, 1) for first in range(2, VOCABULARY)]
CATALOGUES = {"branching": IDS, "flat": FLAT}
TRIES = {(name, c): Trie.build(ids, c) for name, ids in CATALOGUES.items() for c in (True, False)}
TRIE, TEXTBOOK = TRIES["branching", True], TRIES["branching", False]
MODEL = small_model(VOCABULARY)
SHAPES = jax.eval_shape(lambda: init_params(MODEL, jax.random.key(0)))


def model_params(seed=0, sharpness=1.0, twins=False):
    """Random parameters; `twins` makes tokens 3 and 5 the same to the model."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), SHAPES)
    table = params["token_embedder"]["embedding"]
    table *= 3 * sharpness
    if twins:
        table[5] = table[3]
    return params


def model_sources(seed=1):
    tokens = np.random.default_rng(seed).integers(2, VOCABULARY, (4, 9)).astype(np.int32)
    tokens[1, 6:] = 0
    tokens[3, 2:] = 0
    return tokens


@pytest.fixture(scope="module")
def params():
    return model_params()


@pytest.fixture(scope="module")
def sources():
    return model_sources()


@pytest.fixture(scope="module")
def truth(params, sources):
    """Every item's log-probability [B, I]."""
    return log_probabilities(MODEL, params, sources, IDS)


def check(ranking, truth, k):
    """Items are distinct, have their true scores, and are the best k where that is claimed."""
    for items, logp, exact, row in zip(*ranking, truth, strict=True):
        real = items[items >= 0]
        assert len(set(real.tolist())) == len(real)
        np.testing.assert_allclose(logp[: len(real)], row[real], atol=1e-4)
        assert np.isneginf(logp[len(real) :]).all()
        assert (np.diff(logp[: len(real)]) <= 0).all()
        if exact:  # by scores: of items that score alike to rounding either may come first
            best = -np.sort(-row[np.isfinite(row)])[:k]
            np.testing.assert_allclose(logp[: len(best)], best, atol=1e-4)
            assert len(real) == len(best)


@pytest.mark.parametrize(
    "trie",
    [
        pytest.param(TRIE, id="collapsed"),
        pytest.param(TEXTBOOK, id="textbook", marks=pytest.mark.check),
    ],
)
def test_every_items_score_is_that_of_the_item_alone(params, sources, truth, trie):
    np.testing.assert_allclose(score_all(MODEL, params, sources, trie), truth, atol=1e-4)


@pytest.mark.parametrize("k", [pytest.param(5, marks=pytest.mark.check), len(IDS)])
def test_exact_is_the_sorted_truth(params, sources, truth, k):
    ranking = rank(MODEL, params, sources, TRIE, k, "exact", beam=8)
    assert ranking.exact.all()
    np.testing.assert_array_equal(ranking.items, np.argsort(-truth, axis=1)[:, :k])
    np.testing.assert_allclose(ranking.logp, -np.sort(-truth, axis=1)[:, :k], atol=1e-4)


def check_guarantees(seed, sharpness, twins, case, left):
    """Of a random model, of every method: a guaranteed list is the best, an exact one always."""
    (name, beam, k) = case
    ids = CATALOGUES[name]
    blocked = max(0, len(ids) - left)
    params, sources = model_params(seed, sharpness, twins), model_sources(seed)
    truth = log_probabilities(MODEL, params, sources, ids)
    rng = np.random.default_rng(seed)
    exclude = np.full((len(sources), len(ids)), -1, np.int32)
    for user in range(len(sources)):
        exclude[user, :blocked] = rng.permutation(len(ids))[:blocked]
        truth[user, exclude[user, :blocked]] = -np.inf
    for method, collapse in (("certified", True), ("beam", False)):
        check(
            rank(
                MODEL, params, sources, TRIES[name, collapse], k, method, beam=beam, exclude=exclude
            ),
            truth,
            k,
        )
    ranking = rank(
        MODEL, params, sources, TRIES[name, True], k, beam=beam, exact=True, exclude=exclude
    )
    assert ranking.exact.all()
    check(ranking, truth, k)
    exact = rank(MODEL, params, sources, TRIES[name, True], k, "exact", beam=beam, exclude=exclude)
    np.testing.assert_allclose(exact.logp, ranking.logp, atol=1e-4)


# The catalogue, the beam and k: each is compiled.
CASES = [("branching", 2, 1), ("branching", 8, 3), ("flat", 5, 3)]


@pytest.mark.parametrize(
    ("sharpness", "twins", "left"), [(1.0, False, 22), (0.0, True, 18), (6.0, False, 9)]
)
def test_a_guarantee_is_never_false_and_exact_gives_it_to_all(sharpness, twins, left):
    """Also with every token as probable as any other, with tied items, and with some excluded."""
    for seed in range(10):
        check_guarantees(seed, sharpness, twins, ("flat", 5, 3), left)


@pytest.mark.check
@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sharpness=st.sampled_from([0.0, 1.0, 6.0]),
    twins=st.booleans(),
    case=st.sampled_from(CASES),
    left=st.integers(0, len(IDS)),
)
def test_a_guarantee_is_never_false_over_many_models(seed, sharpness, twins, case, left):
    check_guarantees(seed, sharpness, twins, case, left)


def test_a_narrow_search_of_a_vague_model_is_wrong_and_says_so(params, sources, truth):
    ranking = rank(MODEL, params, sources, TRIE, 10, beam=10)
    wrong = (np.sort(ranking.items, 1) != np.sort(np.argsort(-truth, 1)[:, :10], 1)).any(axis=1)
    assert wrong.any()  # otherwise this test shows nothing
    assert not ranking.exact[wrong].any()


def test_of_items_that_tie_the_first_comes_first(sources):
    params = model_params(twins=True)
    items = rank(MODEL, params, sources, TRIE, len(IDS), "exact").items
    for row in items:
        place = {IDS[item]: n for n, item in enumerate(row.tolist())}
        assert place[7, 9, 3, 5, 8, 1] < place[7, 9, 5, 3, 8, 1]  # the same to the model


def test_excluded_items_never_appear_and_free_their_place(params, sources, truth):
    best = np.argsort(-truth, axis=1)
    skipped = (0, 1, 20, 30)
    exclude = np.full((len(sources), 30), -1, np.int32)
    for user, count in enumerate(skipped):
        exclude[user, :count] = best[user, :count]
    items = rank(MODEL, params, sources, TRIE, 10, exact=True, exclude=exclude).items
    for user, count in enumerate(skipped):
        np.testing.assert_array_equal(items[user], best[user, count : count + 10])


def test_a_sharp_model_is_guaranteed_though_much_was_dropped(sources):
    ranking = rank(MODEL, model_params(seed=3, sharpness=6.0), sources, TRIE, 1, beam=8)
    assert ranking.exact.any()


@pytest.mark.parametrize(
    ("dtype", "gap", "guaranteed"),
    [
        ("float32", 1e-5, False),
        ("float32", 1e-3, True),
        ("bfloat16", 0.05, False),
        ("bfloat16", 1.0, True),
    ],
)
def test_a_guarantee_wants_a_gap_wider_than_the_roundings(dtype, gap, guaranteed):
    found = Found(np.array([[4, 7]]), np.array([[-2.0, -3.0]]), np.array([-3.0 - gap]))
    assert ranking_of(found, 2, dtype).exact.tolist() == [guaranteed]


def test_a_model_of_no_numbers_is_refused(sources):
    params = jax.tree.map(lambda x: x * np.nan, model_params())
    with pytest.raises(UserError, match="are not numbers"):
        rank(MODEL, params, sources, TRIE, 4, beam=8)


@pytest.mark.parametrize("exclusion", [True, False])
def test_of_candidates_only_those_are_ranked_and_a_beam_of_their_number_is_exact(
    params, sources, truth, exclusion
):
    rng = np.random.default_rng(3)
    candidates = np.array([rng.choice(len(IDS), 8, replace=False) for _ in sources], np.int32)
    candidates[2, 5:] = -1
    exclude = candidates[:, 1:2] if exclusion else None
    ranking = rank(MODEL, params, sources, TRIE, 8, beam=8, candidates=candidates, exclude=exclude)
    assert ranking.exact.all()
    for user, row in enumerate(candidates):
        left = [i for i in row.tolist() if i >= 0 and not (exclusion and i == row[1])]
        expected = sorted(left, key=lambda item: -truth[user, item])
        assert ranking.items[user].tolist() == expected + [-1] * (8 - len(expected))


def test_items_excluded_again_and_again_are_excluded_once(params, sources, truth):
    """All but five of the items, each three times in any order, among other padding."""
    rng = np.random.default_rng(6)
    exclude, left = np.full((len(sources), 200), -1, np.int32), truth.copy()
    for user, row in enumerate(exclude):
        gone = np.repeat(rng.permutation(len(IDS))[5:], 3)
        row[rng.permutation(200)[: len(gone)]] = gone
        left[user, gone] = -np.inf
    ranking = rank(MODEL, params, sources, TRIE, 8, beam=8, exclude=exclude)
    assert ((ranking.items >= 0).sum(axis=1) == 5).all()
    assert ranking.exact.all()
    check(ranking, left, 8)


@pytest.mark.check
def test_a_narrow_search_fills_k_when_the_catalogue_allows(params, sources):
    # Everything but three items is excluded: a beam of 3 must find them wherever they are.
    rng = np.random.default_rng(2)
    left = np.array([rng.choice(len(IDS), 3, replace=False) for _ in sources])
    exclude = np.array([np.setdiff1d(np.arange(len(IDS)), row) for row in left], np.int32)
    ranking = rank(MODEL, params, sources, TRIE, 3, beam=3, exclude=exclude)
    np.testing.assert_array_equal(np.sort(ranking.items, axis=1), np.sort(left, axis=1))
    ranking = rank(MODEL, params, sources, TRIE, 5, beam=3, exclude=exclude)
    np.testing.assert_array_equal(np.sort(ranking.items[:, :3], axis=1), np.sort(left, axis=1))
    assert (ranking.items[:, 3:] == -1).all()
    assert np.isneginf(ranking.logp[:, 3:]).all()


def test_more_than_the_catalogue_is_padded(params, sources):
    ranking = rank(MODEL, params, sources, Trie.build(IDS[:4]), 6)
    assert (np.sort(ranking.items, axis=1) == [-1, -1, 0, 1, 2, 3]).all()
    assert np.isneginf(ranking.logp[:, 4:]).all()


def test_a_catalogue_of_one_item(params, sources, truth):
    ranking = rank(MODEL, params, sources, Trie.build(IDS[:1]), 1)
    assert (ranking.items == 0).all()
    np.testing.assert_allclose(ranking.logp[:, 0], truth[:, 0], atol=1e-4)


def test_likelihood_over_the_children_is_renormalised_at_each_branching(params, sources):
    targets = padded(IDS)
    by_token = token_log_probabilities(MODEL, params, sources, targets)
    expected = np.zeros((len(sources), len(IDS)))
    for item, tokens in enumerate(IDS):
        for place, token in enumerate(tokens):
            allowed = sorted({t[place] for t in IDS if t[:place] == tokens[:place]})
            logits = by_token[:, item, place]
            expected[:, item] += logits[:, token] - np.logaddexp.reduce(logits[:, allowed], axis=1)
    ranking = rank(MODEL, params, sources, TRIE, len(IDS), "exact", likelihood="children")
    found = np.take_along_axis(expected, ranking.items, axis=1)
    np.testing.assert_allclose(ranking.logp, found, atol=1e-4)
    np.testing.assert_allclose(np.exp(ranking.logp).sum(axis=1), 1, atol=1e-4)


def test_rows_in_parts_score_as_in_one_piece(params, sources, truth):
    width = Width(TRIE.widest, len(IDS), floats=3 * len(sources) * VOCABULARY)
    allowed = allowed_items(TRIE, np.full((len(sources), 1), -1, np.int32))
    start = np.zeros((len(sources), 1), np.int32)
    found = search_trie(MODEL, params, sources, start, TRIE, allowed, len(IDS), width).found
    expected = np.take_along_axis(truth, np.asarray(found.items), axis=1)
    assert (np.sort(found.items, axis=1) == np.arange(len(IDS))).all()
    np.testing.assert_allclose(found.logp, expected, atol=1e-4)


def test_given_items_score_as_each_alone_in_any_order_and_twice(params, sources, truth):
    rng = np.random.default_rng(4)
    items = np.array([rng.permutation(len(IDS))[:9] for _ in sources], np.int32)
    items[:, 5] = items[:, 2]
    items[1, 3] = items[3, 7:] = -1
    expected = np.take_along_axis(truth, items, axis=1)
    expected[items < 0] = -np.inf
    np.testing.assert_allclose(
        score_items(MODEL, params, sources, TRIE, items), expected, atol=1e-4
    )


def test_exclusions_and_candidates_compile_nothing_anew(params, sources):
    before = None
    for seed in range(3):
        rng = np.random.default_rng(seed)
        exclude, candidates = rng.integers(-1, len(IDS), (2, len(sources), 6)).astype(np.int32)
        rank(MODEL, params, sources, TRIE, 4, exclude=exclude, candidates=candidates)
        before = before or search_trie._cache_size()
    assert search_trie._cache_size() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 0}, "k: found 0"),
        ({"k": 3, "beam": 0}, "beam: found 0"),
        ({"k": 3, "method": "fast"}, "method: found 'fast', expected certified, exact or beam"),
        ({"k": 3, "likelihood": "all"}, "likelihood: found 'all'"),
        ({"k": 3, "method": "beam", "exact": True}, "exact: found it with method beam"),
        ({"k": 3, "exclude": [[0]]}, r"exclude: found the shape \(1, 1\), expected \(4, any\)"),
        ({"k": 3, "exclude": [[len(IDS)]] * 4}, f"exclude: found items {len(IDS)}"),
        ({"k": 3, "candidates": [[-2]] * 4}, "candidates: found items -2"),
    ],
)
def test_bad_settings_are_refused(params, sources, options, words):
    with pytest.raises(UserError, match=words):
        rank(MODEL, params, sources, TRIE, **options)


SCHEMES = ("random", "sequential", "collaborative", "semantic", "token", "released")


@pytest.mark.parametrize(
    ("scheme", "count"),
    [("token", 500), *(pytest.param(s, 2100, marks=pytest.mark.check) for s in SCHEMES)],
)
def test_a_catalogue_of_many_items_in_every_id_scheme(scheme, count):
    """Every score against that of the item alone, and the best of them found lazily."""
    rng = np.random.default_rng(0)
    sequences = [rng.integers(count, size=7).astype(np.int32) for _ in range(900)]
    released = [str(number) for number in rng.permutation(count) + 1]
    ids = assign_item_ids(scheme, IdSource(sequences, count, 0, released))
    numbers = ["".join(rng.choice(list("0123456789"), 4)) for _ in range(300)]
    vocabulary = Vocabulary.train(numbers, size=100, id_tokens=id_tokens(ids), seed=0)
    model = small_model(vocabulary.padded_size)
    params = init_params(model, jax.random.key(0))
    sources = rng.integers(2, 90, (2, 12)).astype(np.int32)
    tokens = [[*vocabulary.encode(id), vocabulary.eos_id] for id in ids]
    truth = log_probabilities(model, params, sources, tokens)
    trie = Trie.of_texts(ids, vocabulary)
    np.testing.assert_allclose(score_all(model, params, sources, trie), truth, atol=1e-4)
    best = -np.sort(-truth, axis=1)[:, :20]
    ranking = rank(model, params, sources, trie, 20, "exact", beam=100)
    assert ranking.exact.all()
    np.testing.assert_allclose(ranking.logp, best, atol=1e-4)
    check(ranking, truth, 20)
