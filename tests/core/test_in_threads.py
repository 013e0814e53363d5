"""Parts of the data over threads: the same order, the same results, errors where they belong."""

from __future__ import annotations

import itertools
import threading

import pytest

from p5jax.core import threads
from p5jax.core.errors import UserError
from p5jax.core.threads import AHEAD, in_threads


@pytest.fixture(autouse=True)
def two(monkeypatch):
    monkeypatch.setattr(threads, "thread_count", lambda: 2)


def square(number: int) -> int:
    if number == 13:
        raise UserError("found 13, expected luck")
    return number * number


@pytest.mark.parametrize("parts", [0, 1, 12])
def test_results_stand_beside_their_parts_in_order(parts):
    assert list(in_threads(square, range(parts))) == [(n, n * n) for n in range(parts)]


def test_two_parts_are_under_way_at_a_time():
    both = threading.Barrier(2, timeout=60)  # which one alone does not pass
    assert len(list(in_threads(lambda part: both.wait(), range(4)))) == 4


def test_few_parts_are_made_ahead_of_their_results():
    made = []
    found = in_threads(square, map(made.append, itertools.count()))
    with pytest.raises(TypeError):  # None is no number
        next(found)
    assert len(made) <= 2 * AHEAD


def test_an_error_of_a_part_is_raised():
    found = in_threads(square, range(10, 40))
    assert [result for _, result in itertools.islice(found, 3)] == [100, 121, 144]
    with pytest.raises(UserError, match="found 13, expected luck"):
        next(found)


def test_what_fails_in_making_parts_comes_behind_what_was_made():
    def parts():
        yield from range(5)
        raise UserError("found the end of the file")

    found = in_threads(square, parts())
    assert [result for _, result in itertools.islice(found, 5)] == [0, 1, 4, 9, 16]
    with pytest.raises(UserError, match="end of the file"):
        next(found)
