"""SASRec: an implementation in NumPy is the oracle; padding, causality and the prompt's places."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5jax.core.errors import UserError
from p5jax.parallel.partitioning import MeshConfig, make_mesh, param_shardings, path_name
from p5jax.ppr.backbone.model import Backbone, BackboneConfig, backbone_axes, backbone_params

ITEMS, HISTORY = 11, 6
CONFIG = BackboneConfig(ITEMS, 16, num_layers=2, num_heads=2, mlp_dim=24, max_history=HISTORY)
MODEL = Backbone(CONFIG)


def scrambled(seed=0):
    """Parameters in which nothing is zero, one or small."""
    leaves, tree = jax.tree.flatten(backbone_params(MODEL, jax.random.key(0)))
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(
        tree, [rng.normal(0.3, 0.6, leaf.shape).astype(np.float32) for leaf in leaves]
    )


PARAMS = scrambled()


# ---- the oracle: one user at a time, real rows only, float64 ----


def norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def attention(x, p, heads, before):
    width = x.shape[1] // heads
    q, k, v = (dense(x, p[name]) for name in ("query", "key", "value"))
    out = np.zeros_like(x)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for row in range(len(x)):
            scores = k[: row + 1, part] @ q[row, part] / np.sqrt(width)
            for item in range(before, row + 1 if row >= before else 0):
                scores[item] += p["rel_embedding"][row - item, head]
            weights = np.exp(scores - scores.max())
            out[row, part] = weights / weights.sum() @ v[: row + 1, part]
    return dense(out, p["out"])


def oracle_states(params, history, prompt=None):
    """States [P + n, D] of a history without padding; prompt [P, L, D]."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    items = params["item_embedding"]["embedding"]
    x = np.array([items[item - 1] for item in history]).reshape(len(history), items.shape[1])
    x = norm(x, params["embedding_layer_norm"])
    before = 0 if prompt is None else len(prompt)
    for layer in range(CONFIG.num_layers):
        if prompt is not None:
            x = np.concatenate([prompt[:, layer], x[before if layer else 0 :]])
        p = params[f"layers_{layer}"]
        if len(x):
            attended = attention(x, p["attention"], CONFIG.num_heads, before)
            x = norm(x + attended, p["post_attention_layer_norm"])
            hidden = dense(np.maximum(dense(x, p["wi"]), 0), p["wo"])
            x = norm(x + hidden, p["post_mlp_layer_norm"])
    return x / np.linalg.norm(x, axis=1, keepdims=True) / CONFIG.temperature


def oracle_scores(params, history, prompt=None):
    states = oracle_states(params, history, prompt)
    table = np.asarray(params["item_embedding"]["embedding"], np.float64)[:ITEMS]
    table = table / np.linalg.norm(table, axis=1, keepdims=True)
    return table @ states[-1] if len(states) else np.zeros(ITEMS)


# ---- ours ----

HISTORIES = [[3], [1, 2, 3, 4, 5, 6], [11, 2, 11], [], [7, 9]]


def padded(histories, width=HISTORY):
    rows = np.zeros((len(histories), width), np.int32)
    for row, history in zip(rows, histories, strict=True):
        row[width - len(history) :] = history
    return jnp.asarray(rows)


def prompts(rows, length=2, seed=1):
    shape = (rows, length, CONFIG.num_layers, CONFIG.emb_dim)
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@jax.jit
def scores(params, items, prompt=None):
    user = MODEL.apply({"params": params}, items, prompt, method="user_state")
    return user @ MODEL.apply({"params": params}, method="item_table").T


APPLY = jax.jit(MODEL.apply)


def states(items, prompt=None, params=PARAMS):
    return np.asarray(APPLY({"params": params}, items, prompt))


@pytest.mark.parametrize("length", [0, 1, 2])
def test_scores_are_those_of_numpy(length):
    prompt = prompts(len(HISTORIES), length) if length else None
    found = np.asarray(scores(PARAMS, padded(HISTORIES), prompt))
    for row, history in enumerate(HISTORIES):
        own = None if prompt is None else np.asarray(prompt[row], np.float64)
        expected = oracle_scores(PARAMS, history, own)
        assert not history or np.abs(expected).max() > 1
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [0, 2])
def test_every_state_is_that_of_numpy_and_padding_is_zero(length):
    prompt = prompts(len(HISTORIES), length) if length else None
    found = states(padded(HISTORIES), prompt)
    assert found.shape == (len(HISTORIES), length + HISTORY, CONFIG.emb_dim)
    for row, history in enumerate(HISTORIES):
        own = None if prompt is None else np.asarray(prompt[row], np.float64)
        expected = oracle_states(PARAMS, history, own)
        real = np.r_[0:length, length + HISTORY - len(history) : length + HISTORY]
        np.testing.assert_allclose(found[row, real], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(np.delete(found[row], real, axis=0), 0)


def test_empty_histories_work():
    empty = padded([[]])
    np.testing.assert_array_equal(scores(PARAMS, empty), 0)
    prompt = prompts(1)
    user = jax.jit(MODEL.apply, static_argnames="method")(
        {"params": PARAMS}, empty, prompt, method="user_state"
    )
    np.testing.assert_allclose(user[0], states(empty, prompt)[0, 1], rtol=1e-6)
    gradient = jax.grad(lambda p: scores(p, empty, prompt).sum())(PARAMS)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_padding_changes_nothing():
    wide, narrow = padded([[3, 4]], HISTORY), padded([[3, 4]], 2)
    for prompt in (None, prompts(1)):
        found, expected = scores(PARAMS, wide, prompt), scores(PARAMS, narrow, prompt)
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6 * np.abs(expected).max())


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, ITEMS), min_size=HISTORY, max_size=HISTORY),
    st.integers(0, HISTORY - 1),
    st.integers(1, ITEMS),
    st.booleans(),
)
def test_a_state_depends_on_nothing_later(history, place, other, prompted):
    changed = history[:place] + [other] + history[place + 1 :]
    prompt, before = (prompts(1), 2) if prompted else (None, 0)
    a, b = (states(padded([h]), prompt)[0] for h in (history, changed))
    np.testing.assert_array_equal(a[: before + place], b[: before + place])
    if changed != history:
        assert (np.abs(a[before + place :] - b[before + place :]).max(axis=-1) > 1e-6).all()


@pytest.mark.parametrize("length", [0, 2])
def test_every_position_is_the_last_one_of_its_prefix(length):
    """So that a loss at every position has the targets of a sample for every prefix."""
    history, prompt = [1, 2, 3, 4, 5, 6], prompts(1, length) if length else None
    whole = states(padded([history]), prompt)[0]
    for n in range(1, len(history) + 1):
        prefix = states(padded([history[:n]]), prompt)[0, -1]
        np.testing.assert_allclose(whole[length + n - 1], prefix, rtol=1e-4, atol=1e-5)


def test_a_prompt_is_seen_by_every_row_at_every_layer():
    items, prompt = padded([[1, 2, 3, 4, 5, 6]]), prompts(1)
    plain = states(items, prompt)[0]
    for layer in range(CONFIG.num_layers):
        for row in range(2):
            moved = states(items, prompt.at[0, row, layer].add(1.0))[0]
            assert (np.abs(moved - plain)[2:].max(axis=-1) > 1e-6).all()
    # a row's own output of layer 1 is replaced: what enters there below does not show in row 0
    moved = states(items, prompt.at[0, 0, 0].add(1.0))[0]
    np.testing.assert_array_equal(moved[0], plain[0])


def test_dropout_is_only_for_training():
    items = padded([[1, 2, 3]])
    a, b = (
        MODEL.apply({"params": PARAMS}, items, deterministic=False, rngs={"dropout": key})
        for key in jax.random.split(jax.random.key(0))
    )
    assert np.abs(a - b).max() > 1e-3
    np.testing.assert_array_equal(states(items), states(items))


def test_every_parameter_has_axes_and_a_place_on_a_mesh():
    params = backbone_params(MODEL, jax.random.key(0))
    axes = {
        path_name(path): names
        for path, names in jax.tree_util.tree_leaves_with_path(
            backbone_axes(MODEL), is_leaf=lambda x: isinstance(x, tuple)
        )
    }
    shapes = {
        path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    assert set(axes) == set(shapes)
    assert all(len(axes[name]) == len(shapes[name]) for name in axes)
    assert axes["item_embedding/embedding"] == ("vocab", "embed")
    assert axes["layers_1/attention/query/kernel"] == ("embed", "joined_kv")
    param_shardings(make_mesh(MeshConfig(-1, 1)), backbone_axes(MODEL), params)
    # N(0, .01), as published
    table = np.asarray(params["item_embedding"]["embedding"])
    assert table.std() == pytest.approx(0.01, rel=0.1)


def test_sizes_that_do_not_work_are_refused():
    with pytest.raises(UserError, match="emb_dim: found 10, expected a multiple of num_heads = 4"):
        BackboneConfig(5, emb_dim=10, num_heads=4)
    with pytest.raises(UserError, match="temperature: found 0"):
        BackboneConfig(5, temperature=0)
    with pytest.raises(UserError, match="max_history: found 0"):
        BackboneConfig(5, max_history=0)
    with pytest.raises(ValueError, match="found 7 columns, expected 6"):
        states(padded([[1]], 7))
