"""Ranking metrics against scikit-learn and hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score

from p5jax.evaluation.rank_metrics import hit_rate, mrr, ndcg, ranking_columns, ranking_table

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


@given(st.lists(st.one_of(st.integers(0, 50), st.just(math.inf)), min_size=1, max_size=30))
def test_properties(ranks):
    ranks = np.array(ranks, float)
    for k in (1, 5, 10):
        assert (ndcg(ranks, k) <= hit_rate(ranks, k)).all()
        assert (hit_rate(ranks, k) <= hit_rate(ranks, k + 1)).all()
    np.testing.assert_array_equal(ndcg(ranks, 1), hit_rate(ranks, 1))


def test_columns_by_hand():
    columns = ranking_columns(np.array([0, 3, 9, 10, np.inf]), 100)
    np.testing.assert_array_equal(columns["HR@1"], [1, 0, 0, 0, 0])
    np.testing.assert_array_equal(columns["HR@5"], [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(columns["HR@10"], [1, 1, 1, 0, 0])
    expected = [1, 1 / math.log2(5), 1 / math.log2(11), 0, 0]
    np.testing.assert_allclose(columns["NDCG@10"], expected)
    np.testing.assert_allclose(columns["MRR"], [1, 1 / 4, 1 / 10, 1 / 11, 0])


def test_table():
    table = ranking_table(np.array([0, 7, 20, np.inf]), 100)
    assert table["n"] == 4
    assert (table["HR@1"], table["HR@5"], table["HR@10"]) == (0.25, 0.25, 0.5)
    assert table["NDCG@10"] == pytest.approx((1 + 1 / math.log2(9)) / 4)
    assert table["MRR"] == pytest.approx((1 + 1 / 8 + 1 / 21) / 4)
    low, high = table["intervals"]["HR@10"]
    assert low < 0.5 < high
    assert set(table["intervals"]) == set(table) - {"n", "intervals"}


def test_a_hit_that_is_certain_is_no_figure():
    ranks = np.array([0, 1, 2])
    assert set(ranking_columns(ranks, 10)) == set(ranking_columns(ranks, 11)) - {"HR@10"}
    assert "HR@5" not in ranking_columns(ranks, 5)
    assert set(ranking_columns(np.zeros(2), 2)) == {"HR@1", "NDCG@1", "NDCG@5", "NDCG@10", "MRR"}
    assert ranking_columns(np.zeros(3), 1) == {}
    assert ranking_table(np.zeros(3), 1) == {"n": 3, "intervals": {}}
