"""Rows for tokens that join a vocabulary."""

from __future__ import annotations

import numpy as np
import pytest

from p5jax.models.token_rows import token_rows, with_token_rows
from p5jax.text.vocabulary import NUM_SENTINELS, Vocabulary


@pytest.mark.parametrize("count", [1, 200])  # within the padding, and beyond it
def test_known_rows_keep_every_bit_and_new_ones_are_those_given(world_vocabulary, count):
    before = world_vocabulary
    tokens = [f"<i0_{n}>" for n in range(count)]
    after = Vocabulary(before.model, (*before.id_tokens, *tokens))
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(before.padded_size, 6)).astype(np.float32)
    kernel = rng.normal(size=(4, before.padded_size)).astype(np.float32)
    other = rng.normal(size=(3, 3)).astype(np.float32)
    params = {
        "token_embedder": {"embedding": embedding},
        "decoder": {"logits_dense": {"kernel": kernel}, "other": other},
    }
    assert np.array_equal(token_rows(params), np.concatenate([embedding, kernel.T], axis=1))
    rows = rng.normal(size=(count, 10)).astype(np.float32)
    made = with_token_rows(params, before, after, rows)
    assert made["decoder"]["other"] is other
    found = token_rows(made)
    assert found.shape == (after.padded_size, 10)
    kept = np.r_[: before.size, after.size : before.padded_size]
    assert np.array_equal(found[kept], token_rows(params)[kept])
    assert np.array_equal(found[before.size : after.size], rows)
    first = before.num_pieces
    sentinels = token_rows(params)[first : first + NUM_SENTINELS].mean(axis=0)
    filled = found[max(after.size, before.padded_size) :]
    np.testing.assert_allclose(filled, np.tile(sentinels, (len(filled), 1)), rtol=1e-6)
    assert after.encode(tokens[-1]) == [after.size - 1]
