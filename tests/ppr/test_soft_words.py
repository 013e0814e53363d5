"""Soft prefixes before a T5's input: the model's own embeddings give the model's own logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import log_probabilities, small_model

from p5jax.inference.ranking import id_trie, rank
from p5jax.models.t5 import T5Config, Transformer, init_params
from p5jax.ppr.soft.words import (
    PrefixedTransformer,
    SoftVocabulary,
    rows_of_batch,
    soft_word,
    users_of,
    with_prefix,
)

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
        with_prefix(params, table),
        np.concatenate([soft, text], axis=1),
    )
    np.testing.assert_array_equal(found, expected)
    if length:  # and the prefix is read at all
        other = logits(
            PrefixedTransformer(config),
            with_prefix(params, table + 1.0),
            np.concatenate([soft, text], axis=1),
        )
        assert np.abs(np.array(other) - np.array(expected)).max() > 1e-3


def test_batch_rows_stand_for_their_users_prefixes():
    rng = np.random.default_rng(1)
    prompts = rng.normal(size=(5, 2, 3))
    users = np.array([4, 0, 4])
    text = rng.integers(1, V, (3, 4))
    tokens = np.concatenate([V + users[:, None] * 2 + np.arange(2), text], axis=1)
    np.testing.assert_array_equal(users_of(tokens, V, 2), users)
    renamed = np.array(rows_of_batch(tokens, V, 2))
    np.testing.assert_array_equal(renamed[:, 2:], text)
    own = prompts[users].reshape(-1, 3)
    np.testing.assert_array_equal(own[renamed[:, :2] - V], prompts[users])


def test_a_text_with_a_soft_word_is_its_tokens_and_the_text_s(world_vocabulary):
    soft = SoftVocabulary.of(world_vocabulary, 3)
    size = world_vocabulary.padded_size
    plain = world_vocabulary.encode("user_7 1 , 2")
    assert soft.encode("user_7 1 , 2") == plain
    assert soft.encode(f"{soft_word(5)} user_7 1 , 2") == [size + 15, size + 16, size + 17, *plain]
    assert SoftVocabulary.of(world_vocabulary, 0).encode(f"{soft_word(5)} user_7 1 , 2") == plain
    assert soft.encode("<soft_5> a") == world_vocabulary.encode("<soft_5> a")
    rebuilt, given = soft.__reduce__()
    assert rebuilt(*given).encode(soft_word(1)) == [size + 3, size + 4, size + 5]


def test_ranking_behind_a_prefix_equals_scoring_every_item_alone(world, world_vocabulary):
    size = world_vocabulary.padded_size
    transformer = small_model(size)
    model = PrefixedTransformer(transformer.config)
    rng = np.random.default_rng(0)
    prefix = rng.normal(size=(world.num_users, 2, 16)).astype(np.float32)
    params = with_prefix(init_params(transformer, jax.random.key(3)), jnp.array(prefix))
    soft = SoftVocabulary.of(world_vocabulary, 2)
    users = [3, 50, 7]
    sources = [
        [*soft.encode(f"{soft_word(user)} user_{user} {world.item_ids[user]}"), 1] for user in users
    ]
    width = max(map(len, sources))
    tokens = np.array([[*s, *[0] * (width - len(s))] for s in sources], np.int32)
    ids = [[*world_vocabulary.encode(text), 1] for text in world.item_ids]
    expected = log_probabilities(model, params, tokens, ids)
    for method in ("certified", "exact"):
        trie = id_trie(world.item_ids, soft, method)
        found = rank(model, params, tokens, trie, 5, method, beam=world.num_items)
        best = np.sort(expected, axis=1)[:, ::-1][:, :5]
        np.testing.assert_allclose(found.logp, best, rtol=1e-4)
        np.testing.assert_allclose(
            np.take_along_axis(expected, found.items, axis=1), best, rtol=1e-4
        )
