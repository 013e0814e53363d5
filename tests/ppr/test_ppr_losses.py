"""Losses against NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from p5jax.ppr.backbone.losses import bpr, contrastive, cross_entropy, sampled_cross_entropy

RNG = np.random.default_rng(0)


def array(*shape, scale=3.0):
    return (RNG.normal(size=shape) * scale).astype(np.float32)


def test_bpr():
    positive, negatives = array(4, 3), array(4, 3, 5)
    expected = np.log1p(np.exp(-(positive[..., None] - negatives).astype(np.float64))).mean(-1)
    np.testing.assert_allclose(bpr(positive, negatives), expected, rtol=1e-5)
    far = bpr(jnp.array([-1e4]), jnp.array([[1e4]]))
    np.testing.assert_allclose(far, 2e4)


def full_cross_entropy(states, table, targets):
    scores = states.astype(np.float64) @ table.T.astype(np.float64)
    own = np.take_along_axis(scores, targets[..., None], -1)[..., 0]
    return np.log(np.exp(scores).sum(-1)) - own


def test_cross_entropy():
    states, table = array(4, 3, 8, scale=1), array(6, 8, scale=1)
    targets, weights = RNG.integers(0, 6, (4, 3)), RNG.random((4, 3)).astype(np.float32)
    loss, hits = cross_entropy(states, table, targets, weights)
    expected = (full_cross_entropy(states, table, targets) * weights).sum()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    right = (states @ table.T).argmax(-1) == targets
    assert 0 < float(hits) == pytest.approx((right * weights).sum(), rel=1e-6)


def test_the_gradients_of_cross_entropy_are_those_of_the_plain_formula():
    """Targets that occur twice, positions without weight, a sum that is scaled."""
    states, table = array(5, 3, 4, scale=1), array(7, 4, scale=1)
    targets = np.array([[0, 6, 0], [1, 2, 3], [0, 0, 0], [5, 4, 6], [2, 2, 1]])
    weights = np.array([[1, 1, 0.5], [0, 1, 1], [0, 0, 0], [1, 2, 1], [1, 1, 1]], np.float32)

    def plain(states, table):
        logp = jax.nn.log_softmax(jnp.einsum("bsd,id->bsi", states, table))
        return -3 * (jnp.take_along_axis(logp, targets[..., None], 2)[..., 0] * weights).sum()

    def ours(states, table):
        loss, hits = cross_entropy(states, table, targets, weights)
        return 3 * loss + 5 * hits  # hits have no gradient

    found, expected = (jax.grad(f, (0, 1))(states, table) for f in (ours, plain))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    far = cross_entropy(states * 1e3, table, targets, weights)[0]
    assert np.isfinite(far)


def test_sampled_cross_entropy_with_all_others_is_the_full_one():
    scores, targets = array(5, 6), RNG.integers(0, 6, 5)
    others = np.array([[i for i in range(6) if i != t] for t in targets])
    positive = np.take_along_axis(scores, targets[:, None], 1)[:, 0]
    found = sampled_cross_entropy(positive, np.take_along_axis(scores, others, 1), 6)
    exact = np.log(np.exp(scores.astype(np.float64)).sum(-1)) - positive
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)


def test_the_sum_of_sampled_cross_entropy_is_unbiased():
    """Over all samples of 2 of 5 others, exp(loss + positive) averages to the full sum."""
    scores = array(6, scale=1)
    sums = [
        np.exp(float(sampled_cross_entropy(scores[0], scores[[i, j]], 6)) + scores[0])
        for i in range(1, 6)
        for j in range(1, 6)
    ]
    assert np.mean(sums) == pytest.approx(np.exp(scores).sum(), rel=1e-5)


def by_hand(first, second, temperature, present):
    def similarity(a, b):
        a, b = a.astype(np.float64), b.astype(np.float64)
        return np.exp(a @ b / np.linalg.norm(a) / np.linalg.norm(b) / temperature)

    losses = np.zeros(len(first))
    users = [u for u in range(len(first)) if present[u]]
    for user in users:
        for own, other in ((first, second), (second, first)):
            positive = similarity(own[user], other[user])
            negatives = sum(
                similarity(own[user], view[v])
                for v in users
                if v != user
                for view in (first, second)
            )
            losses[user] += np.log((positive + negatives) / positive) / 2
    return losses


@pytest.mark.parametrize("present", [[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 0, 1, 0, 0]])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_contrastive(present, temperature):
    first, second = array(5, 4), array(5, 4)
    present = np.array(present, bool)
    found = contrastive(first, second, temperature, jnp.asarray(present))
    expected = by_hand(first, second, temperature, present)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    # The length of a vector does not matter.
    np.testing.assert_allclose(
        contrastive(9 * first, second / 9, temperature, present), found, rtol=1e-4, atol=1e-6
    )


def test_contrastive_is_finite_for_states_of_zero_and_low_temperatures():
    first, second = array(3, 4), array(3, 4)
    first[1] = 0

    def total(x):
        return contrastive(x, second, 1e-3).sum()

    value, gradient = jax.value_and_grad(total)(jnp.asarray(first))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    everyone = contrastive(first, second, 0.5)
    np.testing.assert_allclose(contrastive(first, second, 0.5, np.ones(3, bool)), everyone)
