"""Views of histories: what they keep, what they change, how much, and that they are random."""

from __future__ import annotations

from collections import Counter

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5jax.core.errors import UserError
from p5jax.ppr.backbone.views import ViewConfig, crop, mask, random_view, reorder

SIZE, MASK = 9, 50
# Histories of distinct items, as the first rows of a fixed shape.
LENGTHS = list(range(SIZE + 1))
HISTORIES = [list(range(1, n + 1)) for n in LENGTHS]
SEEDS = st.integers(0, 2**31)
SHARES = st.sampled_from([0.0, 0.2, 0.5, 0.6, 1.0])
many = settings(deadline=None, max_examples=60)


def batch():
    rows = np.zeros((len(HISTORIES), SIZE), np.int32)
    for row, history in zip(rows, HISTORIES, strict=True):
        row[SIZE - len(history) :] = history
    return rows


def views(function, seed, *arguments):
    found = np.asarray(function(jax.random.key(seed), batch(), *arguments))
    assert found.shape == (len(HISTORIES), SIZE)
    histories = []
    for row in found:
        items = row[row > 0]
        np.testing.assert_array_equal(row, np.r_[np.zeros(SIZE - len(items), int), items])
        histories.append(items.tolist())
    return histories


def part(share, n):
    return int(np.floor(round(share * n, 6)))


@many
@given(SEEDS, SHARES)
def test_a_crop_is_a_run_of_its_length(seed, share):
    for n, found in zip(LENGTHS, views(crop, seed, share), strict=True):
        assert len(found) == max(part(share, n), min(n, 1))
        assert found == list(range(found[0], found[0] + len(found))) if found else n == 0


@many
@given(SEEDS, SHARES)
def test_a_mask_replaces_its_share_in_place(seed, share):
    for n, found in zip(LENGTHS, views(mask, seed, share, MASK), strict=True):
        assert len(found) == n
        assert found.count(MASK) == part(share, n)
        assert all(item in (place, MASK) for place, item in enumerate(found, 1))


@many
@given(SEEDS, SHARES)
def test_reordering_moves_items_within_one_run(seed, share):
    for n, found in zip(LENGTHS, views(reorder, seed, share), strict=True):
        assert sorted(found) == list(range(1, n + 1))
        moved = [place for place, item in enumerate(found, 1) if item != place]
        if moved:
            assert moved[-1] - moved[0] + 1 <= part(share, n)


def test_every_place_is_drawn_evenly():
    """Counts of 400 draws of the longest history, against the even distribution."""
    draws = 400
    starts, masked, orders = Counter(), Counter(), Counter()
    keys = jax.random.split(jax.random.key(0), draws)
    longest = batch()[-1:]
    for row in np.asarray(jax.vmap(lambda k: crop(k, longest, 0.5))(keys))[:, 0]:
        starts[int(row[row > 0][0])] += 1
    for row in np.asarray(jax.vmap(lambda k: mask(k, longest, 0.34, MASK))(keys))[:, 0]:
        masked.update(np.flatnonzero(row == MASK).tolist())
    three = batch()[3:4]
    for row in np.asarray(jax.vmap(lambda k: reorder(k, three, 1.0))(keys))[:, 0]:
        orders[tuple(row.tolist())] += 1
    for counts, kinds, total in ((starts, 6, draws), (masked, 9, 3 * draws), (orders, 6, draws)):
        assert len(counts) == kinds
        expected = total / kinds
        assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())


def test_a_random_view_is_one_of_the_three_and_differs_by_row_and_key():
    items = np.repeat(batch()[-1:], 300, axis=0)
    config = ViewConfig(crop=0.5, mask=0.3, reorder=0.8)
    found = np.asarray(random_view(jax.random.key(1), items, config, MASK))
    cropped = (found == 0).any(axis=1)
    masked = (found == MASK).any(axis=1)
    assert not (cropped & masked).any()
    for kind in (cropped, masked, ~cropped & ~masked):
        assert 60 < kind.sum() < 140
    again = np.asarray(random_view(jax.random.key(2), items, config, MASK))
    assert (again != found).any(axis=1).mean() > 0.9


def test_shares_that_are_none_are_refused():
    with pytest.raises(UserError, match="ViewConfig.mask: found 1.5, expected 0 to 1"):
        ViewConfig(mask=1.5)
