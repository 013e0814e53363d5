"""The start of the items' embeddings: NumPy's SVD of counted pairs, of training positions alone."""

from __future__ import annotations

import numpy as np
import pytest
from test_ppr_sequences import toy_dataset

from p5jax.data.held_out import with_other_held_out
from p5jax.ppr.backbone.start import LENGTH, WINDOW, counted_embeddings

ITEMS, WIDTH = 12, 5


def by_hand(dataset, users, width):
    """Cosines between items: a dense SVD of pairs counted one by one."""
    counts = np.zeros((dataset.num_items,) * 2)
    for user in users:
        history = dataset.sequence_items[dataset.offsets[user] : dataset.offsets[user + 1] - 2]
        for place, item in enumerate(history):
            for distance, other in enumerate(history[place + 1 :][:WINDOW], start=1):
                counts[item, other] += 1 / distance
                counts[other, item] += 1 / distance
    degree = counts.sum(axis=1)
    known = degree > 0
    root = np.sqrt(np.where(known, degree, 1))
    left, values, _ = np.linalg.svd(counts / root / root[:, None] + np.diag(known * 1.0))
    rows = (left * np.sqrt(values))[:, :width] * known[:, None]
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    return rows @ rows.T


@pytest.fixture(scope="module")
def dataset():
    return toy_dataset([9, 5, 7, 12, 4, 3, 8], items=ITEMS)


def test_cosines_are_those_of_a_dense_svd(dataset):
    everyone = np.arange(7)
    found = counted_embeddings(dataset, everyone, WIDTH)
    assert found.shape == (ITEMS, WIDTH)
    assert found.dtype == np.float32
    expected = by_hand(dataset, everyone, WIDTH)
    np.testing.assert_allclose(found @ found.T, LENGTH**2 * expected, atol=1e-3)
    np.testing.assert_array_equal(found, counted_embeddings(dataset, everyone, WIDTH))


def test_an_item_without_a_neighbour_starts_at_zero_and_widths_beyond_the_items_work(dataset):
    some = np.array([1, 4])  # five training items
    found = counted_embeddings(dataset, some, 20)
    assert found.shape == (ITEMS, 20)
    items, starts = dataset.sequence_items, dataset.offsets
    seen = {*items[starts[1] : starts[2] - 2].tolist(), *items[starts[4] : starts[5] - 2].tolist()}
    assert len(seen) < ITEMS
    lengths = np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(lengths, [LENGTH * (item in seen) for item in range(ITEMS)], 1e-5)
    np.testing.assert_allclose(found @ found.T, LENGTH**2 * by_hand(dataset, some, 20), atol=1e-5)


def test_held_out_items_and_other_users_change_nothing(world):
    some = np.arange(0, world.num_users, 2)
    other = with_other_held_out(world)
    assert not np.array_equal(other.sequence_items, world.sequence_items)
    a, b, everyone = (
        counted_embeddings(data, users, 16)
        for data, users in ((world, some), (other, some), (world, np.arange(world.num_users)))
    )
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, everyone)
