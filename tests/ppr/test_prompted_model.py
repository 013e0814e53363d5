"""Prompted models against NumPy, and the generator's shapes."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest
from prompted_models import BACKBONE, model_and_params

from p5jax.core.errors import UserError
from p5jax.models.initial import fresh_params
from p5jax.ppr.backbone.model import Backbone, BackboneConfig
from p5jax.ppr.generator import (
    ProfileEmbedder,
    PromptConfig,
    PromptGenerator,
    masked_elements,
)
from p5jax.ppr.model import PromptedModel, PromptedScorer
from p5jax.training.freezing import split as split_params


def applied(model, params, *inputs, method=None):
    """A method of a model, compiled as a whole."""
    return jax.jit(partial(model.apply, method=method))({"params": params}, *inputs)


def two_layers(params, x):
    hidden = np.maximum(x @ params["w1"]["kernel"] + params["w1"]["bias"], 0)
    return hidden @ params["w2"]["kernel"] + params["w2"]["bias"]


def unit_rows(table):
    return table / np.linalg.norm(table, axis=1, keepdims=True)


def test_prompt_and_user_vector_equal_numpy():
    model, params = model_and_params()
    p = jax.tree.map(np.array, params)
    codes, items = np.array([[0, 2], [3, 1], [1, 0]]), np.array([[0, 4, 9], [0, 0, 0], [7, 1, 60]])
    table = p["profile"]["embedding"]
    assert table.shape == (7, 3)  # a row for each code, 0 among them
    x = np.concatenate([table[codes[:, 0]], table[4 + codes[:, 1]]], axis=1)
    prompt = two_layers(p["generator"]["mlp"], x).reshape(3, 2, 2, 8)
    np.testing.assert_allclose(
        applied(model, params, x, method="make"), prompt, rtol=1e-4, atol=1e-5
    )
    backbone = Backbone(BACKBONE)
    state = applied(backbone, params["backbone"], items, prompt, method="user_state")
    expected = np.array(state) + two_layers(p["profile_mlp"], x)
    users, states = applied(model, params, codes, items)
    np.testing.assert_allclose(users, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(states, state, rtol=1e-4, atol=1e-5)
    scorer = PromptedScorer(model, params, codes)
    items_table = unit_rows(p["backbone"]["item_embedding"]["embedding"][:60])
    scores = scorer(np.arange(3), items)
    np.testing.assert_allclose(scores, expected @ items_table.T, rtol=1e-4, atol=1e-4)
    candidates = np.array([[3, 5], [59, 0], [7, 7]])
    np.testing.assert_allclose(
        scorer(np.arange(3), items, candidates),
        np.take_along_axis(scores, candidates, axis=1),
        rtol=1e-5,
    )


def test_without_a_prompt_the_user_vector_is_the_backbone_s_and_the_profile_s():
    model, params = model_and_params(prompted=False)
    assert "generator" not in params
    codes, items = np.array([[1, 2], [1, 2]]), np.array([[0, 4], [0, 0]])
    users, states = applied(model, params, codes, items)
    assert np.all(np.array(states)[1] == 0)  # no history, no prompt
    p = jax.tree.map(np.array, params)
    x = np.concatenate([p["profile"]["embedding"][1], p["profile"]["embedding"][6]])
    np.testing.assert_allclose(users[1], two_layers(p["profile_mlp"], x), rtol=1e-4, atol=1e-5)


def test_vectors_are_profiles_too():
    vectors = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    model, params = model_and_params((), features=vectors)
    assert "profile" not in params
    items = np.array([[0, 4], [1, 2]])
    found = PromptedScorer(model, params, vectors)(np.array([4, 0]), items)
    x = vectors[[4, 0]]
    prompt = applied(model, params, x, method="make")
    state = applied(Backbone(BACKBONE), params["backbone"], items, prompt, method="user_state")
    user = np.array(state) + two_layers(jax.tree.map(np.array, params["profile_mlp"]), x)
    table = unit_rows(np.array(params["backbone"]["item_embedding"]["embedding"][:60]))
    np.testing.assert_allclose(found, user @ table.T, rtol=1e-4, atol=1e-4)


def test_masked_elements_are_zero_at_the_rate():
    x = np.ones((200, 50), np.float32)
    masked = np.array(masked_elements(x, 0.2, jax.random.key(0)))
    assert set(np.unique(masked)) == {0.0, 1.0}
    assert (masked == 0).mean() == pytest.approx(0.2, abs=0.02)
    np.testing.assert_array_equal(masked_elements(x, 0.0, jax.random.key(0)), x)


def test_light_trains_under_one_percent_of_a_catalogue_of_usual_size():
    config = BackboneConfig(num_items=200_000)  # the published shares are of such catalogues
    model = PromptedModel(config, PromptConfig(attribute_dim=64), (9, 3, 22))
    shapes = jax.eval_shape(
        partial(fresh_params, model),
        jax.random.key(0),
        np.zeros((1, 3), int),
        np.zeros((1, 5), int),
    )
    trained, frozen = split_params(shapes, ("profile/*", "generator/*", "profile_mlp/*"))
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (trained, frozen)]
    assert 0 < sizes[0] / sum(sizes) < 0.01


def test_a_prompt_without_rows_is_refused():
    with pytest.raises(UserError, match=r"PromptConfig\.length: found 0, expected 1 or more"):
        PromptConfig(length=0)


def test_generator_s_shapes_and_start():
    generator = PromptGenerator(PromptConfig(length=3, hidden=64), 2, 5, stddev=0.5)
    x = np.random.default_rng(0).normal(size=(400, 40)).astype(np.float32)
    params = fresh_params(generator, jax.random.key(0), x)
    made = np.array(generator.apply({"params": params}, x))
    assert made.shape == (400, 3, 2, 5)
    assert 0.3 < made.std() < 0.8
    embedder = ProfileEmbedder((3, 2), 4)
    table = fresh_params(embedder, jax.random.key(0), np.zeros((1, 2), int))["embedding"]
    assert table.shape == (5, 4)
