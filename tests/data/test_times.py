"""Columns of times: what they mean, and that none changes places with another."""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p5jax.core.errors import UserError
from p5jax.data.readers.cells import WARNING, BadLine
from p5jax.data.readers.times import TimeColumn, Times


def column(*cells: object, unit: str | None = None) -> TimeColumn:
    times = Times(unit)
    for cell in cells:
        times.append(times.parse(cell, "time"))
    return times.column()


def epoch(text: str) -> int:
    """Seconds since 1970 of an ISO date in UTC."""
    return int(datetime.datetime.fromisoformat(text + "+00:00").timestamp())


@pytest.mark.parametrize(
    ("cells", "values", "unit", "says"),
    [
        ("1600000000 1700000000", [1600000000, 1700000000], "second", "seconds since 1970, 2020"),
        ("1700000000.8 1700000000.25", [1700000000800, 1700000000250], "millisecond", "seconds"),
        ("1700000000.123456789", [1700000000123456789], "nanosecond", "kept as nanoseconds"),
        ("1600000000123", [1600000000123], "millisecond", "milliseconds since 1970, 2020-09-13"),
        ("1600000000123.5", [1600000000123500], "microsecond", "kept as microseconds"),
        ("1600000000123456", [1600000000123456], "microsecond", "microseconds since 1970"),
        ("1600000000123456789", [1600000000123456789], "nanosecond", "nanoseconds since"),
        ("1.6e9", [1600000000], "second", "seconds since 1970"),
        ("0.8 0.7 0.15", [80, 70, 15], "1e-2", "0.15 to 0.8 in an unknown unit"),
        ("3 -1 2", [3, -1, 2], "unknown unit", "-1 to 3 in an unknown unit"),
        ("7 0.00012345678901234567 7 0", [2, 1, 2, 0], "rank", "kept as ranks"),
        (
            "43831 43832",
            [43831, 43832],
            "day",
            "spreadsheets number them, 2020-01-01 to 2020-01-02",
        ),
        ("43831.25", [4383125], "1e-2 day", "spreadsheets"),
        ("20200131 20200201", [20200131, 20200201], "calendar number", "written as one number"),
        ("20200131235959", [20200131235959], "calendar number", "written as one number"),
    ],
)
def test_numbers_keep_their_values_and_show_their_unit(cells, values, unit, says):
    found = column(*cells.split())
    assert found.values.tolist() == values
    assert found.unit == unit
    assert says in found.understood
    assert not found.understood.startswith(WARNING)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("2020-01-31", "2020-01-31"),
        ("2020/01/31 10:20", "2020-01-31 10:20"),
        ("2020-01-31T10:20:30Z", "2020-01-31 10:20:30"),
        ("2020-01-31 10:20:30+02:00", "2020-01-31 08:20:30"),
        ("2020-01-31 10:20:30 UTC", "2020-01-31 10:20:30"),
        ("1965-01-31", "1965-01-31"),
        ("1/31/2020", "2020-01-31"),
        ("31/1/2020 9:05", "2020-01-31 09:05"),
        ("31-01-2020", "2020-01-31"),
        ("1/31/20 9:05:07 PM", "2020-01-31 21:05:07"),
        ("1/31/2020 12:30 AM", "2020-01-31 00:30"),
        ("01.02.2020 10:00", "2020-02-01 10:00"),
    ],
)
def test_dates_of_many_forms(cell, expected):
    found = column(cell)
    assert (found.values.tolist(), found.unit) == ([epoch(expected)], "second")


def test_fractions_of_dates_are_exact():
    found = column("2020-01-31 10:00:00.123456789", "2020-01-31T10:00:00.12+00:00")
    start = epoch("2020-01-31 10:00") * 10**9
    assert found.values.tolist() == [start + 123_456_789, start + 120_000_000]
    assert found.unit == "nanosecond"
    assert found.understood.startswith(WARNING)  # one has a zone, one has none


def test_one_date_decides_whether_the_day_is_first():
    dates = ["01/02/2020", "03/02/2020 10:00", "13/02/2020", "05/02/2020"]
    days = ["2020-02-01", "2020-02-03 10:00", "2020-02-13", "2020-02-05"]
    assert column(*dates).values.tolist() == [epoch(day) for day in days]
    swapped = ["01/02/2020", "02/13/2020", "03/02/2020"]
    days = ["2020-01-02", "2020-02-13", "2020-03-02"]
    assert column(*swapped).values.tolist() == [epoch(day) for day in days]
    assert column("02/02/2020").values.tolist() == [epoch("2020-02-02")]
    with pytest.raises(UserError, match=r"'01/02/2020', in which the month or the day may be"):
        column("02/02/2020", "01/02/2020")
    with pytest.raises(BadLine):
        column("13/02/2020", "02/13/2020")


SECONDS = ["1600000000", "1700000000"]


@pytest.mark.parametrize(
    ("before", "refused", "after", "values"),
    [
        (
            ["2020-01-05", "2020-03-02 10:00"],
            "31/01/2020",
            ["2020-02-01"],
            ["2020-01-05", "2020-03-02 10:00", "2020-02-01"],
        ),
        (SECONDS, "31/01/2020", ["5"], [1600000000, 1700000000, 5]),
        (SECONDS, "01/02/2020", ["5"], [1600000000, 1700000000, 5]),
        (
            ["01/02/2020", "03/04/2020"],
            "13/13/2020",
            ["01/31/2020"],
            ["2020-01-02", "2020-03-04", "2020-01-31"],
        ),
        (["01/02/2020"], "30/02/2020", ["01/31/2020"], ["2020-01-02", "2020-01-31"]),
        (["01/02/2020"], "31/01/2020 25:00", ["01/31/2020"], ["2020-01-02", "2020-01-31"]),
        (["01.02.2020"], "31/01/2020", ["02.01.2020"], ["2020-02-01", "2020-01-02"]),
        (["02/02/2020"], "01/02/2020 1:99", [], ["2020-02-02"]),
        ([], "13/13/2020", ["01/31/2020"], ["2020-01-31"]),
        (["2020-01-05"], "01/01/2020", ["2020-01-06"], ["2020-01-05", "2020-01-06"]),
    ],
)
def test_a_cell_that_is_refused_changes_no_other(before, refused, after, values):
    times = Times()
    for cell in (*before, refused, *after):
        if cell == refused:
            with pytest.raises(BadLine):
                times.parse(cell, "time")
        else:
            times.append(times.parse(cell, "time"))
    expected = [epoch(value) if isinstance(value, str) else value for value in values]
    assert times.column().values.tolist() == expected


def test_a_day_first_date_turns_all_dates_before_it_and_no_other():
    days = ["01/02/2020", "31/01/2020", "03/04/2020"]
    assert column(*days).values.tolist() == [
        epoch(day) for day in ("2020-02-01", "2020-01-31", "2020-04-03")
    ]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["nan"], "found 'nan', a missing value, expected a time; --skip-bad-lines"),
        ([None], "found None, a missing value"),
        ([""], "a missing value"),
        (["yesterday"], "found 'yesterday', expected a time: a number or a date such as"),
        (["10:00:00"], "expected a time"),
        (["2020-02-30"], "expected a time"),
        (["1_000"], "found '1_000', expected a time"),
        (["inf"], "expected a time"),
        (["1e40"], "found '1e40', expected a time"),
        (["9" * 100_000], "expected a time"),
        ([10**300], "expected a time"),
        ([True], "found True, expected a time"),
        ([[1]], "expected a time"),
        (["5", "2020-01-31"], "found '2020-01-31', expected a number as before"),
        (["2020-01-31", "1600000000"], "expected a date year-month-day as before"),
        (["2020-01-31", "1/31/2020"], "expected a date year-month-day as before"),
    ],
)
def test_what_is_no_time_is_refused(cells, message):
    with pytest.raises(BadLine) as caught:
        column(*cells)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_stray_time_and_another_unit_than_the_formats_are_warnings():
    found = column(1600000000, 1600000001, 0, unit="second")
    assert found.understood.startswith(f"{WARNING}1 of 3 lie far from the others, e.g. 0")
    found = column(1600000000, 1600000001, unit="millisecond")
    assert (found.unit, found.understood[:9]) == ("second", WARNING)
    assert column(5, unit="second").unit == "second"
    assert column(unit="second").values.shape == (0,)


DECIMALS = st.decimals(-(10**10), 10**10, allow_nan=False, allow_infinity=False, places=7)


@given(st.lists(DECIMALS | st.integers(-(10**9), 10**9), min_size=1, max_size=20))
def test_the_order_of_any_numbers_stays(numbers):
    values = column(*map(str, numbers)).values
    exact = [Decimal(number) for number in numbers]
    for i in range(len(exact)):
        for j in range(i):
            assert np.sign(values[i] - values[j]) == (exact[i] > exact[j]) - (exact[i] < exact[j])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_the_order_of_times_scaled_to_0_and_1_stays_to_18_decimals(numbers):
    values = column(*map(repr, numbers)).values
    for a, b, x, y in zip(values, values[1:], numbers, numbers[1:], strict=False):
        assert np.sign(b - a) == np.sign(y - x) or abs(y - x) < 1e-18
