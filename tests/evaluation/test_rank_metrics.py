"""Ranking metrics against scikit-learn and hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score

from p5jax.evaluation.rank_metrics import hit_rate, mean_interval, mrr, ndcg, ranking_table

USERS, CANDIDATES = 40, 30


@pytest.fixture(scope="module")
def scored():
    """Distinct scores [U, C], the relevant column of each row, and its rank by definition."""
    rng = np.random.default_rng(3)
    scores = np.stack([rng.permutation(CANDIDATES) for _ in range(USERS)]).astype(float)
    relevant = rng.integers(CANDIDATES, size=USERS)
    ranks = np.array([(row > row[r]).sum() for row, r in zip(scores, relevant, strict=True)])
    return scores, relevant, ranks


@pytest.mark.parametrize("k", [1, 5, 10])
def test_agrees_with_scikit_learn(scored, k):
    scores, relevant, ranks = scored
    truth = np.zeros_like(scores)
    truth[np.arange(USERS), relevant] = 1
    assert ndcg(ranks, k).mean() == pytest.approx(ndcg_score(truth, scores, k=k))
    expected = top_k_accuracy_score(relevant, scores, k=k, labels=np.arange(CANDIDATES))
    assert hit_rate(ranks, k).mean() == pytest.approx(expected)


def test_mrr_agrees_with_label_ranking(scored):
    scores, relevant, ranks = scored
    truth = np.zeros_like(scores)
    truth[np.arange(USERS), relevant] = 1
    assert mrr(ranks).mean() == pytest.approx(label_ranking_average_precision_score(truth, scores))


def test_by_hand():
    ranks = np.array([0, 1, 4, 5, np.inf])
    np.testing.assert_array_equal(hit_rate(ranks, 5), [1, 1, 1, 0, 0])
    np.testing.assert_allclose(ndcg(ranks, 5), [1, 1 / math.log2(3), 1 / math.log2(6), 0, 0])
    np.testing.assert_allclose(mrr(ranks), [1, 1 / 2, 1 / 5, 1 / 6, 0])


def test_interval_by_hand():
    # mean 0.25, sample variance 4 * (0.25 * 0.75) / 3 = 0.25, standard error 0.25
    mean, low, high = mean_interval(np.array([0.0, 0.0, 0.0, 1.0]))
    assert (mean, low, high) == pytest.approx(
        (0.25, 0.25 - 1.959964 * 0.25, 0.25 + 1.959964 * 0.25)
    )
    wide = mean_interval(np.array([0.0, 0.0, 0.0, 1.0]), level=0.99)
    assert wide[2] - wide[0] == pytest.approx(2.575829 * 0.25)


def test_interval_covers_the_true_mean():
    rng = np.random.default_rng(0)
    covered = [
        low <= 0.3 <= high
        for _, low, high in (mean_interval(rng.random(400) < 0.3) for _ in range(1000))
    ]
    assert 0.93 < np.mean(covered) < 0.97


def test_interval_of_too_few_values():
    assert all(math.isnan(x) for x in mean_interval(np.array([])))
    mean, low, high = mean_interval(np.array([0.5]))
    assert mean == 0.5
    assert math.isnan(low)
    assert math.isnan(high)


@given(st.lists(st.one_of(st.integers(0, 50), st.just(math.inf)), min_size=1, max_size=30))
def test_properties(ranks):
    ranks = np.array(ranks, float)
    for k in (1, 5, 10):
        assert (ndcg(ranks, k) <= hit_rate(ranks, k)).all()
        assert (hit_rate(ranks, k) <= hit_rate(ranks, k + 1)).all()
    np.testing.assert_array_equal(ndcg(ranks, 1), hit_rate(ranks, 1))


def test_table():
    table = ranking_table(np.array([0, 7, 20, np.inf]))
    assert table["n"] == 4
    assert (table["HR@1"], table["HR@5"], table["HR@10"]) == (0.25, 0.25, 0.5)
    assert table["NDCG@10"] == pytest.approx((1 + 1 / math.log2(9)) / 4)
    assert table["MRR"] == pytest.approx((1 + 1 / 8 + 1 / 21) / 4)
    low, high = table["intervals"]["HR@10"]
    assert low < 0.5 < high
    assert set(table["intervals"]) == set(table) - {"n", "intervals"}
