"""The choice of a memory against ranking every item by its mixed score."""

from __future__ import annotations

import numpy as np
import pytest

from p5jax.evaluation.memory_choice import ALONE, Choices, Known, choices_of, format_choices
from p5jax.evaluation.rank_metrics import ndcg
from p5jax.inference.mixing import Mixing
from p5jax.memory.memory import Neighbours
from p5jax.memory.settings import MemorySettings

USERS, ITEMS, NEAR = 60, 80, 12


def some_world(seed, knows=False):
    """Random log-probabilities [U, I] of a model, and what is known of them.

    The target is an item that the memory knows best, or any.
    """
    rng = np.random.default_rng(seed)
    logp = np.log(rng.dirichlet(np.full(ITEMS, 0.3), USERS))
    items = np.array([rng.permutation(ITEMS)[:NEAR] for _ in range(USERS)], np.int32)
    scores = rng.exponential(size=(2, USERS, NEAR)) * (rng.random((2, USERS, NEAR)) < 0.7)
    items[3, 5:], scores[:, 3, 5:] = -1, 0
    items[4], scores[:, 4] = -1, 0
    targets = rng.integers(0, ITEMS, USERS)
    if knows:
        targets = np.where(items[:, 0] >= 0, items[:, 0], targets)
        scores[0, :, 0] = np.where(items[:, 0] >= 0, 9, 0)
    near = Neighbours(items, *scores)
    near_logp = np.where(items < 0, -np.inf, np.take_along_axis(logp, items, 1))
    best = np.argsort(-logp, axis=1)[:, :10]
    known = Known(near, near_logp, best, np.take_along_axis(logp, best, 1), targets)
    return logp, known


def literal_ranks(logp, known, settings):
    near, mixing, ranks = known.near, settings.mixing, []
    for user in range(USERS):
        kinds = np.zeros((2, ITEMS))
        for item, *both in zip(near.items[user], *(s[user] for s in near[1:]), strict=True):
            if item >= 0:
                kinds[:, item] = both
        powers = kinds ** (1 / settings.temperature)
        parts = powers / np.maximum(powers.sum(axis=1, keepdims=True), 1e-300)
        share = (1 - settings.text) * parts[0] + settings.text * parts[1]
        share /= max(share.sum(), 1e-300)
        if mixing.rule == "mixture":
            score = (1 - mixing.weight) * np.exp(logp[user]) + mixing.weight * share
        else:
            score = np.exp(logp[user]) * (share + mixing.floor) ** mixing.weight
        ranks.append((score > score[known.targets[user]] * (1 + 1e-9)).sum())
    return np.array(ranks)


@pytest.mark.parametrize(
    "mixing",
    [Mixing("mixture", 0.0), Mixing("mixture", 0.6), Mixing("product", 0.8, 1e-4)],
)
@pytest.mark.parametrize(("text", "temperature"), [(0.0, 1.0), (0.3, 0.5), (1.0, 2 / 3)])
def test_ranks_within_ten_are_those_of_every_item_mixed(mixing, text, temperature):
    logp, known = some_world(0)
    settings = MemorySettings(text, temperature, mixing)
    found, expected = known.ranks(settings), literal_ranks(logp, known, settings)
    listed = expected < 10
    assert 0 < listed.sum() < USERS
    np.testing.assert_array_equal(found[listed], expected[listed])
    assert (found[~listed] >= 10).all()


def test_a_memory_that_knows_is_chosen():
    logp, known = some_world(1, knows=True)
    rows = choices_of(known, with_texts=True)
    choices = Choices("2-3", USERS, rows)
    assert [row.settings.mixing.rule for row in rows] == ["mixture", "mixture", "product"]
    assert choices.best.ndcg > rows[0].ndcg + 0.2
    for row in rows:
        expected = ndcg(literal_ranks(logp, known, row.settings), 10).mean()
        assert row.ndcg == pytest.approx(expected)
    text = format_choices(choices)
    assert "memory: 60 validation users, prompt 2-3" in text
    assert text.count("(chosen)") == 1


def test_the_model_alone_is_chosen_where_no_memory_helps():
    _, known = some_world(2)
    empty = Neighbours(np.full((USERS, 1), -1), np.zeros((USERS, 1)), np.zeros((USERS, 1)))
    known = Known(
        empty, np.full((USERS, 1), -np.inf), known.best, known.best_logp, known.best[:, 0]
    )
    rows = choices_of(known, with_texts=False)
    assert Choices("2-3", USERS, rows).best.settings == ALONE
    assert [row.ndcg for row in rows] == [1.0, 1.0, 1.0]
    assert all(row.settings.text == 0 for row in rows)
