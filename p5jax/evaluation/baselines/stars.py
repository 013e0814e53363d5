"""Predictions of stars: means, how high users and items stand above them, and a review's words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import Ridge

from p5jax.data.dataset import Dataset
from p5jax.evaluation.baselines.reviews import Reviews
from p5jax.evaluation.baselines.words import WordVectors
from p5jax.memory.histories import ratings_of

STRENGTHS_OF_BIASES = (100.0, 50.0, 20.0, 10.0, 5.0, 2.0, 1.0)
STRENGTHS_OF_WORDS = (30.0, 10.0, 3.0, 1.0, 0.3)
MOST_REVIEWS = 100_000  # that words are weighted by
LEAST, MOST = 1.0, 5.0  # stars

Predictor = Callable[[np.ndarray, np.ndarray], np.ndarray]  # users [N], items [N] -> stars [N]


def means(dataset: Dataset, users: np.ndarray, items: np.ndarray) -> dict[str, np.ndarray]:
    """Predict by the mean of training ratings: of all, of the item and of the user, each [N]."""
    train_users, train_items, stars = ratings_of(dataset, "train")
    mean = float(stars.mean())

    def by(groups: np.ndarray, size: int) -> np.ndarray:
        """The mean of each group's ratings; the global mean where it has none."""
        count = np.bincount(groups, minlength=size)
        total = np.bincount(groups, weights=stars, minlength=size)
        return np.where(count > 0, total / np.maximum(count, 1), mean)

    return {
        "global_mean": np.full(len(users), mean),
        "item_mean": by(train_items, dataset.num_items)[items],
        "user_mean": by(train_users, dataset.num_users)[users],
    }


def user_and_item_bias(dataset: Dataset) -> Predictor:
    """Predict m + b_user + b_item, fitted by least squares with a ridge on the biases.

    The sum of (r - m - b_u - b_i)² + strength (|b_u|² + |b_i|²) over training ratings is least;
    the strength is the one with the least error on validation.
    """
    size = dataset.num_users + dataset.num_items

    def one_hot(users: np.ndarray, items: np.ndarray) -> sp.csr_array:
        rows = np.repeat(np.arange(len(users)), 2)
        columns = np.stack([users, dataset.num_users + items], axis=1).ravel()
        return sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(users), size))

    *known, stars = ratings_of(dataset, "train")
    *held, answers = ratings_of(dataset, "validation")
    model = best_ridge(one_hot(*known), stars, one_hot(*held), answers, STRENGTHS_OF_BIASES)
    return lambda users, items: _within(model.predict(one_hot(users, items)))


def stars_of_words(dataset: Dataset) -> Callable[[Sequence[str]], np.ndarray]:
    """Predict stars of texts, [N], by a ridge regression on the words of training reviews.

    The words and pairs of words are weighted by TF-IDF; the strength is the one with the least
    error on validation reviews.
    """
    training = Reviews.of(dataset, "train").with_texts("text").with_stars().spread(MOST_REVIEWS)
    held = Reviews.of(dataset, "validation").with_texts("text").with_stars()
    vectors = WordVectors(training.texts("text"), phrases=2)
    known, asked = vectors(training.texts("text")), vectors(held.texts("text"))
    model = best_ridge(known, training.stars(), asked, held.stars(), STRENGTHS_OF_WORDS)
    return lambda texts: _within(model.predict(vectors(texts)))


def best_ridge(
    inputs: sp.csr_array,
    stars: np.ndarray,
    held_out: sp.csr_array,
    answers: np.ndarray,
    strengths: Sequence[float],
) -> Ridge:
    """Fit inputs [N, F] to stars [N] by the strength with the least squared error on held-out
    inputs and answers; where these are none, by the first."""
    models = [
        Ridge(strength, solver="sparse_cg", tol=1e-6).fit(inputs, stars) for strength in strengths
    ]
    if not len(answers):
        return models[0]
    errors = [np.square(_within(model.predict(held_out)) - answers).mean() for model in models]
    return models[int(np.argmin(errors))]


def _within(stars: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(stars, LEAST, MOST))
