"""Word vectors against a count in plain Python, and what they never read."""

from __future__ import annotations

import collections
import copy
import math

import numpy as np
import pyarrow as pa
import pytest
from threadpoolctl import threadpool_limits

from p5jax.data.dataset import TRAIN
from p5jax.data.item_vectors import WINDOW
from p5jax.text.word_vectors import SMOOTHED, word_vectors


def information(texts: list[list[int]], pieces: int) -> np.ndarray:
    """Pair by pair: log of how often two pieces are near, by how often that is expected."""
    near: collections.Counter[tuple[int, int]] = collections.Counter()
    for tokens in texts:
        for first, one in enumerate(tokens):
            for second in range(first + 1, min(first + WINDOW, len(tokens) - 1) + 1):
                near[one, tokens[second]] += 1 / (second - first)
                near[tokens[second], one] += 1 / (second - first)
    total: collections.Counter[int] = collections.Counter()
    for (one, _), count in near.items():
        total[one] += count
    smoothed = sum(count**SMOOTHED for count in total.values())
    table = np.zeros((pieces, pieces))
    for (one, other), count in near.items():
        expected = total[one] * total[other] ** SMOOTHED / smoothed
        table[one, other] = max(math.log(count / expected), 0)
    return table


def with_reviews(dataset, reviews):
    other = copy.copy(dataset)
    other.reviews = reviews
    return other


def training_tokens(vocabulary, dataset) -> list[list[int]]:
    texts = [
        review[name]
        for review in dataset.reviews.to_pylist()
        for name in ("text", "headline")
        if review["split"] == TRAIN and review[name]
    ]
    texts += [title for title in dataset.titles if title]
    encoded = (vocabulary.encode(text) for text in texts)
    return [[token for token in tokens if token < vocabulary.num_pieces] for tokens in encoded]


def test_they_are_the_leading_directions_of_a_count(world, world_vocabulary):
    pieces, width = world_vocabulary.num_pieces, 24
    found = word_vectors(world_vocabulary, world, width)
    left, values, _ = np.linalg.svd(information(training_tokens(world_vocabulary, world), pieces))
    best = left[:, :width] * np.sqrt(values[:width])
    assert found.shape == (pieces, width)
    np.testing.assert_allclose(
        np.sort(np.linalg.norm(found, axis=0))[::-1], np.sqrt(values[:width]), rtol=0.02
    )
    likeness, expected = found @ found.T, best @ best.T
    assert np.corrcoef(likeness.ravel(), expected.ravel())[0, 1] > 0.99
    unread = np.setdiff1d(
        np.arange(pieces), np.concatenate(training_tokens(world_vocabulary, world))
    )
    assert len(unread)
    assert not found[unread].any()


def test_held_out_reviews_change_nothing(world, world_vocabulary):
    held_out = world.reviews["split"].to_numpy() != TRAIN
    said = [
        "guitar strings of another world" if held else text
        for held, text in zip(held_out, world.reviews["text"].to_pylist(), strict=True)
    ]
    column = world.reviews.column_names.index("text")
    field = world.reviews.schema.field("text")
    other = world.reviews.set_column(column, field, pa.array(said, field.type))
    assert held_out.any()
    assert other != world.reviews
    found = word_vectors(world_vocabulary, world, 8)
    beside = with_reviews(world, other)
    np.testing.assert_array_equal(word_vectors(world_vocabulary, beside, 8), found)
    kept = world.reviews.filter(pa.array(held_out))
    none = word_vectors(world_vocabulary, with_reviews(world, kept), 8)
    assert (none != found).any()


@pytest.mark.parametrize("threads", [1, 2])
def test_they_are_the_same_on_any_number_of_cores(world, world_vocabulary, threads):
    found = word_vectors(world_vocabulary, world, 8)
    with threadpool_limits(threads):
        np.testing.assert_array_equal(word_vectors(world_vocabulary, world, 8), found)
