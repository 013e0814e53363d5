"""p5jax's metrics as SeqIO metric functions over decoded text.

Each judges the examples of its own kinds among a task's, so that a task may mix kinds of prompts.
A target is {"kind", "answer"}; a prediction one text, or the texts of all decodes, best first
(t5x returns all decodes best last: turn them around).
Every metric comes with its n and, where so few examples have one, its 95 % interval, "<metric> low"
and "<metric> high".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import numpy as np

from p5jax.data.dataset import Dataset
from p5jax.evaluation.intervals import Interval, mean_interval, mean_intervals
from p5jax.evaluation.metrics import (
    rating_metrics,
    ratings_from_text,
    text_metrics,
)
from p5jax.evaluation.rank_metrics import RANKING_CUTS, ranking_columns
from p5jax.memory.histories import ratings_of

Target = Mapping[str, str]
Prediction = str | Sequence[str]
Scores = dict[str, float]
MetricFn = Callable[[Sequence[Target], Sequence[Prediction]], Scores]

ITEM_KINDS = ("catalogue", "candidates")


def stars(dataset: Dataset) -> MetricFn:
    """RMSE and MAE of the ratings in texts, in [1, 5], and the share of texts without one.

    Those count as the training mean, as in P5.
    """
    mean = float(ratings_of(dataset, "train")[2].mean())

    def metric(targets: Sequence[Target], predictions: Sequence[Prediction]) -> Scores:
        answers, texts = _chosen(("rating",), targets, predictions)
        if not answers:
            return {}
        ratings, readable = ratings_from_text([text[0] for text in texts], mean)
        metrics = rating_metrics(ratings, np.array(answers, np.float64))
        metrics["unparsable"] = mean_interval(~readable, shares=True)
        return _named("rating", len(answers), metrics)

    return metric


def sentences(dataset: Dataset) -> MetricFn:
    """Corpus BLEU-2 and -4, ROUGE-1, -2 and -L in percent, and the share of distinct texts."""

    def metric(targets: Sequence[Target], predictions: Sequence[Prediction]) -> Scores:
        answers, texts = _chosen(("text",), targets, predictions)
        if not answers:
            return {}
        return _named("text", len(answers), text_metrics([text[0] for text in texts], answers))

    return metric


def items(dataset: Dataset) -> MetricFn:
    """HR@k and NDCG@k of the true item's rank among an example's decodes, for each k up to their
    number; "real": the share of all decodes that are an item of the catalogue."""
    return partial(_item_scores, catalogue=frozenset(dataset.item_ids))


def _item_scores(
    targets: Sequence[Target],
    predictions: Sequence[Prediction],
    *,
    catalogue: Collection[str],
) -> Scores:
    answers, texts = _chosen(ITEM_KINDS, targets, predictions)
    if not answers:
        return {}
    ranks = np.array(
        [
            said.index(answer) if answer in said else np.inf
            for answer, said in zip(answers, texts, strict=True)
        ]
    )
    depth = max(map(len, texts))
    columns = ranking_columns(ranks, len(catalogue))
    shown = [f"{name}@{k}" for k in RANKING_CUTS if k <= depth for name in ("HR", "NDCG")]
    means = {name: columns[name] for name in shown if name in columns}
    means["real"] = np.array([np.mean([text in catalogue for text in said]) for said in texts])
    return _named("item", len(answers), mean_intervals(means, shares=True))


def choices(dataset: Dataset) -> MetricFn:
    """The share of right answers among two, "yes" or "no", "like" or "dislike"."""
    return partial(_right, kind="choice", metric="accuracy")


def held_out_yes(dataset: Dataset) -> MetricFn:
    """The share of held-out items answered "yes": their true answer is always "yes", so this is a
    recall and no accuracy; `p5jax evaluate` asks about all candidates instead."""
    return partial(_right, kind="yes_no", metric="recall")


def _right(
    targets: Sequence[Target], predictions: Sequence[Prediction], *, kind: str, metric: str
) -> Scores:
    answers, texts = _chosen((kind,), targets, predictions)
    if not answers:
        return {}
    right = np.array([text[0] == a for text, a in zip(texts, answers, strict=True)], np.float64)
    return _named(kind, len(answers), {metric: mean_interval(right, shares=True)})


def _chosen(
    kinds: Collection[str], targets: Sequence[Target], predictions: Sequence[Prediction]
) -> tuple[list[str], list[list[str]]]:
    """Return the answers of some kinds of examples and the texts said for each, best first."""
    pairs = zip(targets, predictions, strict=True)
    mine = [(t["answer"], said) for t, said in pairs if t["kind"] in kinds]
    texts = [[said] if isinstance(said, str) else list(said) for _, said in mine]
    return [answer for answer, _ in mine], texts


def _named(what: str, n: int, metrics: Mapping[str, Interval]) -> Scores:
    scores: Scores = {}
    for name, (value, low, high) in metrics.items():
        scores[f"{what}/{name}"] = value
        if math.isfinite(low) and math.isfinite(high):  # NaN is no JSON
            scores |= {f"{what}/{name} low": low, f"{what}/{name} high": high}
    return scores | {f"{what}/n": n}
