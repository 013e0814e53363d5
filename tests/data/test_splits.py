"""Filtering and splitting, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p5jax.data import splits
from p5jax.data.dataset import TEST, TRAIN, VALIDATION
from p5jax.data.splits import by_user_and_time, first_of_pairs, k_core, leave_one_out

ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), max_size=40)
AT_ONCE = st.sampled_from([1, 3, 1 << 21])


def columns(rows: list[tuple[int, int, int]]) -> list[np.ndarray]:
    return [np.array([row[c] for row in rows], np.int32) for c in range(3)]


@given(ROWS, AT_ONCE)
def test_the_earliest_row_of_a_pair_is_kept_ties_in_source_order(rows, at_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "SORTED", at_once)
        keeper = first_of_pairs(*columns(rows))
    for n, (user, item, _) in enumerate(rows):
        same = [(time, m) for m, (u, i, time) in enumerate(rows) if (u, i) == (user, item)]
        assert keeper[n] == min(same)[1]


@given(ROWS, AT_ONCE)
def test_rows_stand_by_user_and_time_ties_in_source_order(rows, at_once):
    user, _, time = columns(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "SORTED", at_once)
        order = by_user_and_time(user, time)
    assert order.tolist() == sorted(range(len(rows)), key=lambda n: (user[n], time[n]))


@given(ROWS, st.integers(1, 5))
def test_k_core_is_the_one_that_one_by_one_removal_leaves(rows, k):
    user, item, _ = columns(rows)
    left = set(range(len(rows)))
    while True:
        small = [
            n
            for n in left
            if sum(user[m] == user[n] for m in left) < k
            or sum(item[m] == item[n] for m in left) < k
        ]
        if not small:
            break
        left.remove(small[0])
    assert set(np.flatnonzero(k_core(user, item, k)).tolist()) == left


@given(st.lists(st.integers(3, 9), max_size=8))
def test_leave_one_out_holds_each_users_last_two_out(lengths):
    user = np.repeat(np.arange(len(lengths)), lengths)
    expected = [part for n in lengths for part in [TRAIN] * (n - 2) + [VALIDATION, TEST]]
    assert leave_one_out(user).tolist() == expected
