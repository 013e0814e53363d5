"""Ranking against scoring every item alone by teacher forcing."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p5jax.errors import UserError
from p5jax.inference import ranking
from p5jax.inference.ranking import rank_catalogue, score_candidates, yes_no
from p5jax.inference.trie import Trie
from p5jax.models.t5 import Transformer, init_params
from p5jax.models.t5_config import T5Config

VOCABULARY = 24
# Ids of 1 to 3 tokens; many are token prefixes of others, as decimal ids are.
IDS = [
    (*tokens, 1)
    for n in (1, 2, 3)
    for tokens in itertools.product((3, 5, 8, 13), repeat=n)
    if sum(tokens) % 3
]


@pytest.fixture(scope="module")
def model():
    return Transformer(
        T5Config(
            vocab_size=VOCABULARY,
            emb_dim=16,
            num_heads=2,
            num_encoder_layers=1,
            num_decoder_layers=2,
            head_dim=8,
            mlp_dim=32,
            whole_words=False,
        )
    )


@pytest.fixture(scope="module")
def params(model):
    return init_params(model, jax.random.key(0))


@pytest.fixture(scope="module")
def sources():
    tokens = np.random.default_rng(1).integers(2, VOCABULARY, (5, 9))
    tokens[1, 6:] = 0
    tokens[3, 2:] = 0
    return jnp.asarray(tokens, jnp.int32)


@pytest.fixture(scope="module")
def exact(model, params, sources):
    """Every item's log-probability [B, I], one uncached teacher-forced row per (user, item)."""
    length = max(map(len, IDS))
    targets = np.array([(*tokens, *[0] * (length - len(tokens))) for tokens in IDS], np.int32)
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    rows = []
    for source in sources:
        tiled = jnp.tile(source, (len(IDS), 1))
        logits = model.apply({"params": params}, tiled, shifted, targets, enable_dropout=False)
        logp = np.asarray(jax.nn.log_softmax(logits), np.float64)
        chosen = np.take_along_axis(logp, targets[:, :, None], axis=2)[:, :, 0]
        rows.append((chosen * (targets > 0)).sum(axis=1))
    return np.array(rows)


def test_full_beam_is_the_exact_ranking(model, params, sources, exact):
    count = len(IDS)
    items, logp = rank_catalogue(model, params, sources, Trie.build(IDS), count, count)
    np.testing.assert_array_equal(items, np.argsort(-exact, axis=1))
    np.testing.assert_allclose(logp, -np.sort(-exact, axis=1), atol=2e-5)


@pytest.mark.parametrize("beam", [1, 3, 8])
def test_small_beam_gives_true_scores_of_distinct_items(model, params, sources, exact, beam):
    items, logp = (
        np.asarray(x) for x in rank_catalogue(model, params, sources, Trie.build(IDS), beam, beam)
    )
    assert items.shape == (len(sources), beam)
    np.testing.assert_allclose(logp, np.take_along_axis(exact, items, axis=1), atol=2e-5)
    assert (np.diff(logp, axis=1) <= 0).all()
    assert all(len(set(row)) == beam for row in items)


def test_excluded_items_never_appear_and_free_their_place(model, params, sources, exact):
    # Exclude each user's best items: the next best must come, in order.
    best = np.argsort(-exact, axis=1)
    exclude = np.full((len(sources), 30), -1, np.int32)
    for user, count in enumerate((0, 1, 7, 20, 30)):
        exclude[user, :count] = best[user, :count]
    count = len(IDS)
    items, _ = rank_catalogue(model, params, sources, Trie.build(IDS), 10, count, exclude)
    for user, skipped in enumerate((0, 1, 7, 20, 30)):
        np.testing.assert_array_equal(items[user], best[user, skipped : skipped + 10])


def test_a_narrow_beam_always_fills_k_when_the_catalogue_allows(model, params, sources):
    # Everything but three items is excluded: a beam of 3 must find them wherever they are.
    rng = np.random.default_rng(2)
    left = np.array([rng.choice(len(IDS), 3, replace=False) for _ in sources])
    exclude = np.array([np.setdiff1d(np.arange(len(IDS)), row) for row in left], np.int32)
    trie = Trie.build(IDS)
    items, _ = rank_catalogue(model, params, sources, trie, 3, 3, exclude)
    np.testing.assert_array_equal(np.sort(items, axis=1), np.sort(left, axis=1))
    items, logp = (
        np.asarray(x) for x in rank_catalogue(model, params, sources, trie, 5, 1, exclude)
    )
    np.testing.assert_array_equal(np.sort(items[:, :3], axis=1), np.sort(left, axis=1))
    assert (items[:, 3:] == -1).all()
    assert np.isneginf(logp[:, 3:]).all()


def test_more_than_the_catalogue_is_padded(model, params, sources):
    items, logp = rank_catalogue(model, params, sources, Trie.build(IDS[:4]), 6, 2)
    assert (np.sort(items, axis=1) == [-1, -1, 0, 1, 2, 3]).all()
    assert np.isneginf(logp[:, 4:]).all()
    with pytest.raises(UserError, match="k: found 0"):
        rank_catalogue(model, params, sources, Trie.build(IDS), 0, 4)


@pytest.mark.parametrize("floats", [1 << 25, 1])  # in one piece, and one candidate at a time
def test_candidates_score_as_alone(model, params, sources, exact, monkeypatch, floats):
    monkeypatch.setattr(ranking, "_CHUNK_FLOATS", floats)
    score_candidates.clear_cache()
    rng = np.random.default_rng(3)
    chosen = np.array([rng.choice(len(IDS), 7, replace=False) for _ in sources])
    candidates = np.zeros((len(sources), 8, 4), np.int32)  # the last candidate stays empty
    for user, slot in np.ndindex(*chosen.shape):
        tokens = IDS[chosen[user, slot]]
        candidates[user, slot, : len(tokens)] = tokens
    scores = np.asarray(score_candidates(model, params, sources, candidates))
    np.testing.assert_allclose(scores[:, :7], np.take_along_axis(exact, chosen, 1), atol=2e-5)
    assert np.isneginf(scores[:, 7]).all()
    score_candidates.clear_cache()


def test_yes_no_is_the_difference_of_whole_answers(model, params, sources, exact):
    yes, no = IDS.index((5, 1)), IDS.index((8, 5, 1))
    margin = yes_no(model, params, sources, jnp.array([5, 1, 0]), jnp.array([8, 5, 1]))
    np.testing.assert_allclose(margin, exact[:, yes] - exact[:, no], atol=2e-5)
