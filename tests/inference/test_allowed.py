"""Which items are allowed, by counting ranks one by one."""

from __future__ import annotations

import numpy as np
import pytest

from p5jax.inference.allowed import allowed_items, few_widths
from p5jax.inference.trie import Trie

ITEMS = 40
TRIE = Trie.build([(2 + item * 7 % 5, 2 + item // 5, 1) for item in range(ITEMS)])


def rows(rng, count):
    """Items [3, count]: the first row's few and repeated, the others with padding anywhere."""
    found = rng.integers(-1, ITEMS, (3, count)).astype(np.int32)
    found[0] = rng.choice([-1, 3, 3, 17, ITEMS - 1], count)
    return found


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("count", [1, 3, 64, 300])
def test_intervals_hold_as_many_allowed_items_as_are_there_one_by_one(count, listed):
    rng = np.random.default_rng(count)
    exclude = rows(rng, count)
    candidates = rows(rng, 2 * count) if listed else None
    ends = np.sort(rng.integers(0, ITEMS + 1, (3, 50, 2)), axis=2).astype(np.int32)
    ends[:, 0] = 0, ITEMS
    allowed = allowed_items(TRIE, exclude, candidates)
    counted = allowed.between(ends[..., 0], ends[..., 1])
    for user, row in enumerate(ends.tolist()):
        left = set(range(ITEMS) if candidates is None else candidates[user].tolist())
        left -= {-1, *exclude[user].tolist()}
        ranks = [int(TRIE.item_rank[item]) for item in left]
        assert counted[user].tolist() == [sum(a <= r < b for r in ranks) for a, b in row]


def test_what_is_kept_of_a_user_does_not_grow_with_the_catalogue():
    large = Trie.build([(2 + n // 400, 2 + n // 20 % 20, 2 + n % 20, 1) for n in range(8000)])
    exclude = np.array([[5, -1, 39]])
    sizes = [sum(x.nbytes for x in allowed_items(trie, exclude)) for trie in (TRIE, large)]
    assert sizes[0] == sizes[1] == 4 * 3 + 1


@pytest.mark.parametrize(("count", "width"), [(0, 64), (64, 64), (65, 256), (257, 1024)])
def test_rows_have_few_widths_and_lose_nothing(count, width):
    items = np.arange(2 * count, dtype=np.int32).reshape(2, count)
    wide = few_widths(items)
    assert wide.shape == (2, width)
    np.testing.assert_array_equal(wide[:, :count], items)
    assert (wide[:, count:] == -1).all()
