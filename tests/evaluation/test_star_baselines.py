"""Predictions of stars against dense least squares, and settings chosen on validation alone."""

from __future__ import annotations

import numpy as np
import pytest
from damaged_world import sound
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from p5jax.data.dataset import TEST, TRAIN, VALIDATION
from p5jax.evaluation.baselines.stars import (
    STRENGTHS_OF_BIASES,
    STRENGTHS_OF_WORDS,
    means,
    stars_of_words,
    user_and_item_bias,
)


def rows(dataset, split):
    """Users, items and stars of a split's interactions, one by one."""
    found = [row for row in dataset.interactions.to_pylist() if row["split"] == split]
    found = [(row["user"], row["item"], int(row["rating"] + 0.5)) for row in found if row["rating"]]
    return [np.array(column) for column in zip(*found, strict=True)]


def biases(world, strength):
    """The mean and the biases that make the penalised squares least: normal equations, dense."""
    users, items, stars = rows(world, TRAIN)
    design = np.zeros((len(stars), 1 + world.num_users + world.num_items))
    design[:, 0] = 1
    design[np.arange(len(stars)), 1 + users] = 1
    design[np.arange(len(stars)), 1 + world.num_users + items] = 1
    ridge = strength * np.eye(design.shape[1])
    ridge[0, 0] = 0
    found = np.linalg.solve(design.T @ design + ridge, design.T @ stars)
    return found[0], found[1 : 1 + world.num_users], found[1 + world.num_users :]


def test_user_and_item_bias_is_least_squares(world):
    def predicted(strength, users, items):
        mean, of_user, of_item = biases(world, strength)
        return np.clip(mean + of_user[users] + of_item[items], 1, 5)

    users, items, answers = rows(world, VALIDATION)
    errors = {
        each: np.mean((predicted(each, users, items) - answers) ** 2)
        for each in STRENGTHS_OF_BIASES
    }
    chosen = min(errors, key=errors.__getitem__)
    users, items, _ = rows(world, TEST)
    found = user_and_item_bias(world)(users, items)
    np.testing.assert_allclose(found, predicted(chosen, users, items), atol=1e-3)


def test_words_of_a_review(world):
    """The same regression on scikit-learn's own vocabulary of the training reviews."""

    def said(split):
        found = [row for row in world.reviews.to_pylist() if row["split"] == split]
        return [row["text"] for row in found], [int(row["rating"] + 0.5) for row in found]

    (known, stars), (held, answers), (asked, _) = map(said, (TRAIN, VALIDATION, TEST))
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)).fit(known)
    models = [Ridge(each).fit(words.transform(known), stars) for each in STRENGTHS_OF_WORDS]

    def predicted(model, texts):
        return np.clip(model.predict(words.transform(texts)), 1, 5)

    best = min(models, key=lambda model: np.mean((predicted(model, held) - answers) ** 2))
    np.testing.assert_allclose(stars_of_words(world)(asked), predicted(best, asked), atol=5e-3)


@pytest.mark.parametrize("changed", ["rating", "text"])
def test_no_test_row_is_looked_at(tmp_path, changed):
    def predicted(change):
        parts = sound()
        reviews, interactions = parts.tables["reviews"], parts.tables["interactions"]
        for table in (reviews, interactions):
            for row, split in enumerate(table["split"]):
                if change and split == TEST and changed in table:
                    table[changed][row] = {"rating": 1.0, "text": "zorblequax bad"}[changed]
        dataset = parts.write(tmp_path / str(change))
        users, items = np.array([0, 1, 2]), np.array([2, 1, 0])
        return [
            *means(dataset, users, items).values(),
            user_and_item_bias(dataset)(users, items),
            stars_of_words(dataset)(["good", "bad", "a good thing"]),
        ]

    np.testing.assert_array_equal(predicted(False), predicted(True))
