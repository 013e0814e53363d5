"""A loss whose logits are there for a few positions at a time, against all at once."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest
from small_model import small_model

from p5jax.models.t5 import init_params
from p5jax.training.children import Children
from p5jax.training.objective import ObjectiveConfig, batch_sums

CATALOGUE = [(20, 30), (20, 31), (21, 32), (22, 30)]
ROWS, LENGTH = 3, 7


@pytest.fixture(scope="module")
def model():
    made = small_model(64)
    return made, init_params(made, jax.random.key(0))


@pytest.fixture(scope="module")
def batch():
    """Packed rows whose answers are ids and words, and whose ends are padding."""
    rng = np.random.default_rng(0)
    targets = rng.integers(2, 60, (ROWS, LENGTH)).astype(np.int32)
    targets[:, 1:3] = np.array(CATALOGUE)[rng.integers(0, 4, ROWS)]
    segments = np.tile(np.repeat([1, 2, 0], [4, 2, 1]), (ROWS, 1)).astype(np.int32)
    targets *= segments > 0
    fed = np.where(np.diff(segments, axis=1, prepend=0) == 0, np.roll(targets, 1, axis=1), 0)
    return {
        "encoder_input_tokens": rng.integers(2, 60, (ROWS, LENGTH)).astype(np.int32),
        "encoder_segment_ids": np.tile(np.repeat([1, 2], [3, 4]), (ROWS, 1)).astype(np.int32),
        "decoder_input_tokens": fed.astype(np.int32),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": rng.random(targets.shape).astype(np.float32) * (targets > 0),
        "decoder_segment_ids": segments,
    }


def found(model, batch, length):
    """The sums and the gradient of what is minimised, with everything that changes the loss."""
    sums = partial(
        batch_sums,
        model[0],
        batch=batch,
        rng=jax.random.key(1),
        children=Children.build(CATALOGUE, 64),
        config=ObjectiveConfig(label_smoothing=0.1, logits_length=length),
    )
    return jax.jit(jax.value_and_grad(sums, has_aux=True))(model[1])


@pytest.fixture(scope="module")
def all_at_once(model, batch):
    return found(model, batch, 0)


@pytest.mark.parametrize("length", [1, 3])
def test_a_few_positions_at_a_time_are_all_at_once(model, batch, all_at_once, length):
    """Among them what does not divide the target's length; dropout has the same mask."""
    few = found(model, batch, length)
    for ours, expected in zip(*map(jax.tree.leaves, (few, all_at_once)), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-6)


def test_logits_of_a_few_positions_take_less_memory():
    """Of a million tokens; nothing is run, the sizes are the compiler's."""
    model, length = small_model(2**20), 32
    params = jax.eval_shape(partial(init_params, model), jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((4, length), np.int32)
    batch = {f"{name}_tokens": tokens for name in ("encoder_input", "decoder_input")}
    batch["decoder_target_tokens"] = tokens
    batch["decoder_loss_weights"] = jax.ShapeDtypeStruct((4, length), np.float32)

    def temporary(at_once):
        sums = partial(batch_sums, model, rng=None, config=ObjectiveConfig(logits_length=at_once))
        step = jax.jit(jax.grad(lambda *each: sums(*each)[0]))
        return step.lower(params, batch).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * 2**20 * 4  # bytes of one position's, of all rows
    assert temporary(0) > length * logits
    assert temporary(2) < 12 * logits
