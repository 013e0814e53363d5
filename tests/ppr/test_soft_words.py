"""Soft prefixes before a T5's input: the model's own embeddings give the model's own logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import log_probabilities, small_model

from p5jax.inference.ranking import rank
from p5jax.inference.trie import Trie
from p5jax.models.t5 import T5Config, Transformer, init_params
from p5jax.ppr.soft.words import PrefixedTransformer, prefixed_sources, with_prefixes

V = 64


def logits(model, params, tokens):
    target = jnp.array([[0, 5, 9]] * len(tokens), jnp.int32)
    return model.apply({"params": params}, tokens, target, target, enable_dropout=False)


@pytest.mark.parametrize("whole_words", [False, True])
@pytest.mark.parametrize("length", [0, 1, 3])
def test_words_as_prefix_vectors_give_their_logits_as_text(whole_words, length):
    """With whole words, of pieces that start no word: only those have no number in the text."""
    starts = np.arange(V) >= V // 2
    config = T5Config(
        vocab_size=V, emb_dim=16, num_heads=2, num_encoder_layers=2, num_decoder_layers=1,
        head_dim=8, mlp_dim=32, whole_words=whole_words, word_starts=np.packbits(starts).tobytes(),
    )  # fmt: skip
    params = init_params(Transformer(config), jax.random.key(0))
    rng = np.random.default_rng(0)
    words = rng.integers(3, V // 2, (4, length))
    text = rng.integers(3, V, (4, 7))
    text[1, 5:] = 0
    whole = np.concatenate([words, text], axis=1)
    expected = logits(Transformer(config), params, whole)
    soft = V + np.arange(4 * length).reshape(4, length)
    embedded = Transformer(config).apply({"params": params}, whole, method="embed")
    table = embedded[:, :length]
    found = logits(
        PrefixedTransformer(config),
        with_prefixes(params, table),
        np.concatenate([soft, text], axis=1),
    )
    np.testing.assert_array_equal(found, expected)
    if length:  # and the prefix is read at all
        other = logits(
            PrefixedTransformer(config),
            with_prefixes(params, table + 1.0),
            np.concatenate([soft, text], axis=1),
        )
        assert np.abs(np.array(other) - np.array(expected)).max() > 1e-3


def test_sources_stand_behind_their_users_soft_tokens():
    users = np.array([4, 0, 4])
    text = np.random.default_rng(1).integers(1, V, (3, 4))
    tokens = np.array(prefixed_sources(text, users, V, 2))
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens[:, 2:], text)
    np.testing.assert_array_equal(tokens[:, :2], [[V + 8, V + 9], [V, V + 1], [V + 8, V + 9]])
    np.testing.assert_array_equal(prefixed_sources(text, users, V, 0), text)


def test_prefixes_are_the_table_of_soft_tokens():
    prefixes = np.random.default_rng(1).normal(size=(5, 2, 3)).astype(np.float32)
    table = with_prefixes({"other": 1}, jnp.array(prefixes))
    assert table["other"] == 1
    np.testing.assert_array_equal(table["prefix"][8:10], prefixes[4])


@pytest.mark.check
def test_ranking_behind_a_prefix_equals_scoring_every_item_alone(world, world_vocabulary):
    size = world_vocabulary.padded_size
    transformer = small_model(size)
    model = PrefixedTransformer(transformer.config)
    rng = np.random.default_rng(0)
    prefix = rng.normal(size=(world.num_users, 2, 16)).astype(np.float32)
    params = with_prefixes(init_params(transformer, jax.random.key(3)), jnp.array(prefix))
    users = [3, 50, 7]
    sources = [
        [*world_vocabulary.encode(f"user_{user} {world.item_ids[user]}"), 1] for user in users
    ]
    width = max(map(len, sources))
    text = np.array([[*s, *[0] * (width - len(s))] for s in sources], np.int32)
    tokens = prefixed_sources(text, np.array(users), size, 2)
    ids = [[*world_vocabulary.encode(text), 1] for text in world.item_ids]
    expected = log_probabilities(model, params, tokens, ids)
    trie = Trie.of_texts(world.item_ids, world_vocabulary)
    for method in ("certified", "exact"):
        found = rank(model, params, tokens, trie, 5, method, beam=world.num_items)
        best = np.sort(expected, axis=1)[:, ::-1][:, :5]
        np.testing.assert_allclose(found.logp, best, rtol=1e-4)
        np.testing.assert_allclose(
            np.take_along_axis(expected, found.items, axis=1), best, rtol=1e-4
        )
