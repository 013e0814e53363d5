"""Metrics against hand-computed values and direct resampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p5jax.evaluation.metrics import (
    corpus_bleu,
    coverage,
    distinct,
    parse_rating,
    rating_columns,
    rating_metrics,
    ratings_from_text,
    text_columns,
    text_metrics,
)


def test_coverage_and_distinct_by_hand():
    # 3 of 6 items; item 2 only through user 1, item 5 only through user 2.
    value, low, high = coverage([[1, 1], [1, 2], [5]], 6)
    assert value == pytest.approx(0.5)
    # Jackknife: leaving out each user gives 3/6, 2/6, 2/6.
    left_out = np.array([3, 2, 2]) / 6
    error = math.sqrt(2 / 3 * np.square(left_out - left_out.mean()).sum())
    assert high - low == pytest.approx(2 * 1.959964 * error, abs=1e-6)
    assert distinct(["a", "a", "b", "a"])[0] == 0.5
    assert distinct(["same"] * 5)[0] == pytest.approx(0.2)
    # Where no user alone has an item, leaving out one changes nothing: that is no width of zero.
    assert all(math.isnan(end) for end in coverage([[1, 2]] * 16, 100)[1:])


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        *[("5.0", 5.0), ("4", 4.0), (" 3.7 ", 3.7), ("", None), ("five", None), ("4 stars", None)],
        *[("nan", None), ("inf", None), ("4.", None), ("-1", None), ("1e3", None)],
    ],
)
def test_parse_rating(text, rating):
    assert parse_rating(text) == rating


def test_unreadable_ratings_become_the_mean_and_all_are_clipped():
    ratings, readable = ratings_from_text(["5.0", "junk", "9", "0", "2.5"], 4.2)
    np.testing.assert_array_equal(ratings, [5.0, 4.2, 5.0, 1.0, 2.5])
    np.testing.assert_array_equal(readable, [True, False, True, True, True])


def test_rating_metrics_by_hand_keep_fives():
    predictions, answers = np.array([5.0, 4.0, 2.0, 3.0]), np.array([5.0, 5.0, 4.0, 3.0])
    metrics = rating_metrics(predictions, answers)
    assert metrics["RMSE"][0] == pytest.approx(math.sqrt(5 / 4))
    assert metrics["MAE"][0] == pytest.approx(3 / 4)
    columns = rating_columns(predictions, answers)
    np.testing.assert_array_equal(columns["squared_error"], [0, 1, 4, 0])
    for value, low, high in metrics.values():
        assert low <= value <= high


def _bleu(texts: list[str], references: list[str], order: int) -> float:
    """Papineni et al. 2002 for whitespace-separated words, without smoothing."""
    matched, total = [0] * order, [0] * order
    length = reference_length = 0
    for text, reference in zip(texts, references, strict=True):
        a, b = text.split(), reference.split()
        length, reference_length = length + len(a), reference_length + len(b)
        for n in range(1, order + 1):
            grams = [tuple(a[i : i + n]) for i in range(len(a) - n + 1)]
            others = [tuple(b[i : i + n]) for i in range(len(b) - n + 1)]
            total[n - 1] += len(grams)
            matched[n - 1] += sum(min(grams.count(g), others.count(g)) for g in set(grams))
    if not all(matched):
        return math.nan
    brevity = min(1.0, math.exp(1 - reference_length / length))
    logs = [math.log(m / t) for m, t in zip(matched, total, strict=True)]
    return 100 * brevity * math.exp(sum(logs) / order)


TEXTS = [
    "the strings sound bright and clear",
    "a very good strap for the price",
    "it broke after one week of use",
]
REFERENCES = [
    "the strings sound very bright and clear",
    "a good strap for the price",
    "it broke after a week of heavy use",
]


@pytest.mark.parametrize("order", [2, 4])
def test_corpus_bleu_is_papinenis(order):
    value, low, high = corpus_bleu(TEXTS, REFERENCES, order)
    assert value == pytest.approx(_bleu(TEXTS, REFERENCES, order), abs=1e-6)
    assert low <= value <= high
    # A resample that draws each text once is the corpus itself: its BLEU must be in range.
    assert 0 <= low <= high <= 100.0001


def _lcs(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return 1 + _lcs(a[:-1], b[:-1])
    return max(_lcs(a[:-1], b), _lcs(a, b[:-1]))


words = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5)


@given(words, words)
def test_rouge_is_f_of_overlap_and_longest_subsequence(text, reference):
    columns = text_columns([" ".join(text)], [" ".join(reference)])
    overlap = sum(min(text.count(w), reference.count(w)) for w in set(text))
    for name, shared in (("ROUGE-1", overlap), ("ROUGE-L", _lcs(text, reference))):
        expected = 100 * 2 * shared / (len(text) + len(reference))
        assert columns[name][0] == pytest.approx(expected)


def test_text_metrics_of_perfect_and_empty_answers():
    perfect = text_metrics(REFERENCES, REFERENCES)
    for name in ("BLEU-2", "BLEU-4", "ROUGE-1", "ROUGE-2", "ROUGE-L"):
        assert perfect[name][0] == pytest.approx(100)
    silent = text_metrics(["", "", ""], REFERENCES)
    assert silent["BLEU-4"] == (0, 0, 0)
    assert silent["ROUGE-L"][0] == 0
