"""Intervals against SciPy, hand-computed values and repeated samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap

from p5jax.evaluation.intervals import (
    bootstrap_interval,
    format_value,
    mean_interval,
    mean_intervals,
    rate_interval,
    resampled_means,
)


@given(st.integers(1, 30_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_rates_have_scipys_wilson_interval(counted):
    hits, n = counted
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    value, low, high = rate_interval(hits / n, n)
    assert value == hits / n
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= value <= high <= 1
    assert high > low


def test_zeros_and_ones_are_a_rate_of_any_type():
    none, all_ = np.zeros(16, bool), np.ones(16)
    assert mean_interval(none, shares=True) == rate_interval(0.0, 16)
    assert mean_interval(all_, shares=True) == rate_interval(1.0, 16)
    # By hand: 0 and z^2 / (n + z^2) with z^2 = 3.841459.
    expected = 0, 3.841459 / (16 + 3.841459)
    assert mean_interval(none, shares=True)[1:] == pytest.approx(expected, abs=1e-6)


def test_a_wilson_interval_covers_a_small_rate():
    """Of 2,000 samples of 100 with rate .02: the normal interval covers it 87 % of the time."""
    rng = np.random.default_rng(0)
    samples = rng.random((2000, 100)) < 0.02
    covered = [
        low <= 0.02 <= high for _, low, high in (mean_interval(s, shares=True) for s in samples)
    ]
    assert 0.93 < np.mean(covered) < 0.99


def test_other_means_have_scipys_bootstrap_interval():
    values = np.random.default_rng(1).beta(0.3, 3, size=200)
    expected = bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    value, low, high = mean_interval(values, shares=True)
    assert value == pytest.approx(values.mean())
    error = values.std() / math.sqrt(200)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.2 * error)
    assert 0 <= low < value < high <= 1


def test_values_that_are_all_alike():
    same = np.full(16, 0.25)
    # Nothing in 0 ... 1 varies more than zeros and ones with this mean: 4 of 16.
    assert mean_interval(same, shares=True) == rate_interval(0.25, 16)
    for values in (same, np.zeros(16), np.ones(1)):  # an error of 0 stars is no rate
        value, low, high = mean_interval(values, shares=False)
        assert value == values[0]
        assert math.isnan(low)
        assert math.isnan(high)
    assert all(math.isnan(x) for x in mean_interval(np.zeros(0), shares=True))


def test_columns_keep_their_order_and_their_users():
    rng = np.random.default_rng(3)
    columns = {"b": rng.random(50), "hit": rng.random(50) < 0.5, "a": rng.random(50)}
    found = mean_intervals(columns, shares=True)
    assert list(found) == ["b", "hit", "a"]
    for name, values in columns.items():
        assert found[name] == pytest.approx(mean_interval(values, shares=True))


def test_a_statistic_is_resampled_like_a_mean():
    values = np.random.default_rng(0).normal(size=300)
    ends = bootstrap_interval(lambda counts: float(counts @ values / 300), 300)
    assert ends == pytest.approx(mean_interval(values, shares=False)[1:])
    error = values.std() / math.sqrt(300)
    expected = values.mean() - 1.96 * error, values.mean() + 1.96 * error
    assert ends == pytest.approx(expected, abs=0.25 * error)
    assert all(math.isnan(end) for end in bootstrap_interval(lambda counts: 1.0, 1))


def test_resamples_draw_users_with_replacement():
    """Means of one-hot columns are each user's share: they sum to one and vary as a multinomial."""
    shares_RxN = resampled_means(np.eye(5), resamples=4000, seed=0)
    np.testing.assert_allclose(shares_RxN.sum(axis=1), 1)
    np.testing.assert_allclose(shares_RxN.mean(axis=0), 0.2, atol=0.01)
    np.testing.assert_allclose(shares_RxN.var(axis=0), 0.2 * 0.8 / 5, rtol=0.1)


def test_cells_of_a_text_table():
    assert format_value((0.25, 0.1, 0.75)) == ("0.2500", "[0.1000, 0.7500]")
    assert format_value((41.123, 40, 42), 2) == ("41.12", "[40.00, 42.00]")
    assert format_value((1.0, math.nan, math.nan)) == ("1.0000", "-")
