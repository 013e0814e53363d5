"""Metrics with 95 % intervals, and the per-user values they are made of.

Ratings by scikit-learn, BLEU by sacrebleu, ROUGE by rouge-score; each metric also comes as one
value per user, from which two runs can be compared. Text metrics are in percent, as published.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from p5jax.evaluation.intervals import (
    Z95,
    Columns,
    Interval,
    bootstrap_interval,
    mean_interval,
    mean_intervals,
)

_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*")
_LEADING_RATING = re.compile(r"\s*\d+(\.\d+)?\s*,\s*")


def _distinct_share(groups: Sequence[Sequence[Hashable]], size: int) -> Interval:
    """Distinct values over all users' groups, divided by `size`, with a jackknife interval.

    A resampling bootstrap repeats users and so undercounts distinct values; leaving out one user
    loses exactly the values that only this user has, which gives the jackknife in closed form.
    Where each user loses equally many, one user among them, there is no interval (nan).
    """
    seen: Counter[Hashable] = Counter()
    for group in groups:
        seen.update(set(group))
    lost = np.array([sum(seen[value] == 1 for value in set(group)) for group in groups], np.float64)
    value = len(seen) / size
    if np.ptp(lost) == 0:
        return value, float("nan"), float("nan")
    error = np.sqrt((len(groups) - 1) / len(groups) * np.square(lost - lost.mean()).sum())
    margin = Z95 * float(error) / size
    return value, max(0.0, value - margin), min(1.0, value + margin)


def coverage(lists: Sequence[Sequence[int]], num_items: int) -> Interval:
    """Share of the catalogue that appears in at least one user's list."""
    return _distinct_share(lists, num_items)


def distinct(texts: Sequence[str]) -> Interval:
    """Share of different texts among all texts: near 0 when a model always says the same."""
    return _distinct_share([(text,) for text in texts], len(texts))


def parse_rating(text: str) -> float | None:
    """The rating a generated text states, or None when it is not just a number."""
    match = _NUMBER.fullmatch(text)
    return float(match[1]) if match else None


def without_rating(text: str) -> str:
    """A generated text without the rating, and its comma, that it begins with."""
    return _LEADING_RATING.sub("", text, count=1)


def ratings_from_text(texts: Sequence[str], fallback: float) -> tuple[np.ndarray, np.ndarray]:
    """Ratings [n] read from generated texts, clipped to 1..5, and which were readable [n] bool.

    `fallback` (the training mean) stands in for a text that is not a number.
    """
    parsed = [parse_rating(text) for text in texts]
    readable = np.array([rating is not None for rating in parsed], bool)
    ratings = np.array([fallback if rating is None else rating for rating in parsed], np.float64)
    return np.clip(ratings, 1.0, 5.0), readable


def rating_columns(predictions: np.ndarray, answers: np.ndarray) -> Columns:
    """Squared and absolute error per user; every answer counts, 5.0 too."""
    error = np.asarray(predictions, np.float64) - np.asarray(answers, np.float64)
    return {"squared_error": error**2, "absolute_error": np.abs(error)}


def rating_metrics(predictions: np.ndarray, answers: np.ndarray) -> dict[str, Interval]:
    """RMSE and MAE with bootstrap intervals."""
    columns = rating_columns(predictions, answers)
    squared = columns["squared_error"]
    n = len(squared)
    low, high = bootstrap_interval(lambda counts: float(np.sqrt(counts @ squared / n)), n)
    _, *mae_ends = mean_interval(columns["absolute_error"], shares=False)
    return {
        "RMSE": (float(root_mean_squared_error(answers, predictions)), low, high),
        "MAE": (float(mean_absolute_error(answers, predictions)), mae_ends[0], mae_ends[1]),
    }


def text_columns(predictions: Sequence[str], references: Sequence[str]) -> Columns:
    """Sentence BLEU-2/4 and ROUGE-1/2/L F-measure per user, in percent."""
    bleu = {order: BLEU(max_ngram_order=order, effective_order=True) for order in (2, 4)}
    rouge = RougeScorer(["rouge1", "rouge2", "rougeL"])
    pairs = list(zip(predictions, references, strict=True))
    columns: Columns = {
        f"sentence BLEU-{order}": np.array(
            [metric.sentence_score(text, [reference]).score for text, reference in pairs]
        )
        for order, metric in bleu.items()
    }
    scores = [rouge.score(reference, text) for text, reference in pairs]
    for name, key in (("ROUGE-1", "rouge1"), ("ROUGE-2", "rouge2"), ("ROUGE-L", "rougeL")):
        columns[name] = np.array([100.0 * score[key].fmeasure for score in scores])
    return columns


def corpus_bleu(predictions: Sequence[str], references: Sequence[str], order: int) -> Interval:
    """Corpus BLEU up to n-grams of `order`, in percent, with a bootstrap interval over users."""
    sentence = BLEU(max_ngram_order=order, effective_order=True)  # only its counts are used
    counts = []
    for text, reference in zip(predictions, references, strict=True):
        score = sentence.sentence_score(text, [reference])
        counts.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
    counts_NxF = np.array(counts, np.int64)

    def resampled(times: np.ndarray) -> float:
        system, reference, *rest = (times @ counts_NxF).tolist()
        score = BLEU.compute_bleu(
            rest[:order],
            rest[order:],
            system,
            reference,
            smooth_method="exp",  # sacrebleu's default for a corpus
            max_ngram_order=order,
        )
        return float(score.score)

    metric = BLEU(max_ngram_order=order)
    value = metric.corpus_score(list(predictions), [list(references)]).score
    low, high = bootstrap_interval(resampled, len(counts))
    return float(value), low, high


def text_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Interval]:
    """Corpus BLEU-2/4, ROUGE-1/2/L (percent) and the share of distinct texts."""
    columns = text_columns(predictions, references)
    metrics = {f"BLEU-{n}": corpus_bleu(predictions, references, n) for n in (2, 4)}
    rouge = {name: columns[name] for name in ("ROUGE-1", "ROUGE-2", "ROUGE-L")}
    metrics |= mean_intervals(rouge, shares=False)
    return metrics | {"distinct": distinct(predictions)}
