"""Slot gradients against finite differences and PyTorch, candidates against NumPy."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import RUN_MODEL

from p5jax.models.checkpoints.hugging_face import export_hugging_face
from p5jax.models.t5 import Transformer, init_params
from p5jax.triggers.gradients import (
    Gradients,
    add_gradients,
    best_tokens,
    example_nll,
    slot_gradients,
)

VOCABULARY, WIDTH = 96, 16
CONFIG = replace(
    RUN_MODEL,
    vocab_size=VOCABULARY,
    emb_dim=WIDTH,
    num_encoder_layers=2,
    num_decoder_layers=2,
)
MODEL = Transformer(CONFIG)


@pytest.fixture(scope="module")
def params():
    return init_params(MODEL, jax.random.key(1))


@pytest.fixture(scope="module")
def batch():
    """Six prompts of three users, three slots each, padded on both sides."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, VOCABULARY, (6, 12)).astype(np.int32)
    targets = rng.integers(2, VOCABULARY, (6, 5)).astype(np.int32)
    for row, (source, target) in enumerate([(12, 5), (9, 3), (10, 2), (12, 4), (8, 5), (11, 1)]):
        tokens[row, source:], targets[row, target:] = 0, 0
    positions = np.array([[1, 5, 7], [0, 3, 6], [2, 4, 8], [9, 1, 5], [3, 0, 7], [6, 2, 10]])
    return tokens, positions.astype(np.int32), targets, np.array([2, 0, 2, 1, 0, 2], np.int32)


def test_slot_gradients_equal_finite_differences(params, batch):
    """Central differences of step .02 in random directions: float32 leaves 1 % of the norm."""
    tokens, positions, targets, _ = batch
    embedded = np.asarray(MODEL.apply({"params": params}, tokens, method="embed"))
    found = np.asarray(slot_gradients(MODEL, params, tokens, positions, targets, targets > 0))
    nll = jax.jit(partial(example_nll, MODEL))
    rng = np.random.default_rng(3)
    for slot in range(positions.shape[1]):
        direction = rng.normal(size=(6, WIDTH))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        step = 0.02
        sides = []
        for sign in (1, -1):
            moved = embedded.copy()
            moved[np.arange(6), positions[:, slot]] += sign * step * direction
            sides.append(np.asarray(nll(params, moved, tokens, targets, targets > 0), np.float64))
        slope = (sides[0] - sides[1]) / (2 * step)
        expected = (found[:, slot] * direction).sum(axis=1)
        scale = np.linalg.norm(found[:, slot], axis=1)
        np.testing.assert_array_less(np.abs(slope - expected), 0.01 * scale + 1e-4)


@pytest.mark.extras
def test_slot_gradients_equal_pytorch_autograd(params, batch, tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch (make test-extras)")
    transformers = pytest.importorskip(
        "transformers", reason="needs transformers (make test-extras)"
    )
    tokens, positions, targets, _ = batch
    export_hugging_face(params, CONFIG, tmp_path)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    source, labels = torch.from_numpy(tokens).long(), torch.from_numpy(targets).long()
    embedded = theirs.get_input_embeddings()(source).detach().requires_grad_()
    fed = torch.nn.functional.pad(labels, (1, -1))
    logits = theirs(
        inputs_embeds=embedded, attention_mask=(source != 0).long(), decoder_input_ids=fed
    ).logits
    nll = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), labels.masked_fill(labels == 0, -100), reduction="none"
    )
    (nll.sum(dim=1) / (labels != 0).sum(dim=1)).sum().backward()
    assert embedded.grad is not None
    expected = embedded.grad.numpy()[np.arange(6)[:, None], positions]
    found = np.asarray(slot_gradients(MODEL, params, tokens, positions, targets, targets > 0))
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-4)


def test_each_users_gradient_is_what_the_user_alone_gives(params, batch):
    tokens, positions, targets, users = batch
    slots = slot_gradients(MODEL, params, tokens, positions, targets, targets > 0)
    empty = Gradients(jnp.zeros((2, WIDTH)), jnp.zeros((4, 1, WIDTH)))
    padded = np.array([*users[:5], -1], np.int32)  # the last row only fills the batch
    found = add_gradients(empty, slots, padded)
    arrays = tokens, positions, targets, targets > 0
    rows = [[array[[row]] for array in arrays] for row in range(5)]
    alone = np.asarray([slot_gradients(MODEL, params, *row)[0] for row in rows])
    np.testing.assert_allclose(found.task, alone[:, :2].sum(axis=0), atol=1e-5)
    for user in range(4):
        expected = alone[users[:5] == user, 2:].sum(axis=0)
        np.testing.assert_allclose(found.users[user], expected, atol=1e-5)


CHOOSE = jax.jit(best_tokens, static_argnames="k")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_candidates_equal_numpy(seed):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(7, 8)).astype(np.float32)
    table = rng.normal(size=(50, 8)).astype(np.float32)
    allowed = rng.random(50) < 0.5
    allowed[:6] = True
    current = rng.integers(50, size=7).astype(np.int32)
    found = np.asarray(CHOOSE(gradients, table, allowed, current, k=4))
    scores = -gradients.astype(np.float64) @ table.T.astype(np.float64)
    for row in range(7):
        usable = [t for t in np.argsort(-scores[row]) if allowed[t] and t != current[row]]
        assert found[row].tolist() == usable[:4]


def test_candidates_in_chunks_are_the_same():
    rng = np.random.default_rng(5)
    gradients, table = rng.normal(size=(9, 8)), rng.normal(size=(40, 8))
    allowed, current = np.ones(40, bool), np.zeros(9, np.int32)
    whole = np.asarray(best_tokens(gradients, table, allowed, current, k=3))
    for rows in (1, 2, 4):  # at a time
        found = best_tokens(gradients, table, allowed, current, k=3, scores_held=40 * rows)
        np.testing.assert_array_equal(found, whole)
    scores = -gradients @ table.T
    scores[:, 0] = -np.inf  # the current token
    np.testing.assert_array_equal(whole, np.argsort(-scores, axis=1)[:, :3])
