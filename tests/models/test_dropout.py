"""Dropout by place: encoder, decoder, items, outputs."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from t5_case import V10, Case, shifted, tokens

from p5jax.core.errors import UserError
from p5jax.models.layers import Dropout
from p5jax.models.t5 import Transformer
from p5jax.prompts.families import FamilyConfig
from p5jax.runs.run import Run, RunConfig


@pytest.fixture(scope="module")
def case() -> Case:
    return Case(V10)


def test_the_decoders_dropout_can_differ_from_the_encoders(case: Case) -> None:
    source, targets = tokens(20, 2, 9), tokens(21, 2, 5)
    key = {"dropout": jax.random.key(0)}
    for encoder, decoder in ((0.0, 0.5), (0.5, 0.0)):
        config = dataclasses.replace(V10, dropout_rate=encoder, decoder_dropout_rate=decoder)
        apply = jax.jit(
            partial(Transformer(config).apply, {"params": case.params}, rngs=key),
            static_argnames=("enable_dropout", "method"),
        )
        encoded = case.encode(source)
        noisy = apply(source, enable_dropout=True, method="encode")
        assert np.allclose(noisy, encoded, atol=1e-5) == (encoder == 0)
        logits = case.decode(encoded, source, shifted(targets), targets)
        noisy = apply(
            encoded, source, shifted(targets), targets, enable_dropout=True, method="decode"
        )
        assert np.allclose(noisy, logits, atol=1e-5) == (decoder == 0)


def test_the_dropout_of_items_is_at_the_positions_that_read_one(case: Case) -> None:
    source, key = tokens(20, 2, 9), {"dropout": jax.random.key(0)}
    inputs = jnp.array([[0, 7, 8, 40, 9, 50], [0, 40, 50, 60, 7, 8]])  # items from 32 on

    def decoded(enable_dropout: bool, **rates: float) -> np.ndarray:
        config = dataclasses.replace(V10, dropout_rate=0.0, first_id_token=32, **rates)
        return np.asarray(
            Transformer(config).apply(
                {"params": case.params},
                *(case.encode(source), source, inputs, inputs),
                enable_dropout=enable_dropout,
                rngs=key,
                method="decode",
            )
        )

    plain, noisy = decoded(False), decoded(True, item_dropout_rate=0.5)
    same = np.isclose(noisy, plain, atol=1e-5).all(axis=-1)
    assert same.tolist() == [[True] * 3 + [False] * 3, [True] + [False] * 5]  # as causality has it
    noisy = decoded(True, decoder_dropout_rate=0.5, item_dropout_rate=0.0)
    assert not np.isclose(noisy, plain, atol=1e-5).all(axis=-1).any()
    config = dataclasses.replace(V10, item_dropout_rate=0.5)
    with pytest.raises(UserError, match="first_id_token: found 0"):
        Transformer(config).apply({"params": case.params}, source, inputs, inputs, rngs=key)


def test_dropout_takes_the_rate_of_each_position() -> None:
    rates = jnp.array([0.0, 0.25, 0.5])[None, :, None]
    x = jnp.ones((64, 3, 512))
    y = np.asarray(Dropout(0.9).apply({}, x, False, rates, rngs={"dropout": jax.random.key(0)}))
    assert (y[:, 0] == 1).all()
    for position, rate in ((1, 0.25), (2, 0.5)):
        assert (y[:, position] == 0).mean() == pytest.approx(rate, abs=0.01)
        assert np.unique(y[:, position]).tolist() == pytest.approx([0, 1 / (1 - rate)])
    assert (y[:, 2][y[:, 1] == 0] == 0).all()  # one mask for all positions


def test_the_outputs_dropout_can_differ_from_the_layers(case: Case) -> None:
    source, key = tokens(20, 2, 9), {"dropout": jax.random.key(0)}
    encoded = case.encode(source)

    def noisy(inside: float, output: float) -> np.ndarray:
        config = dataclasses.replace(V10, dropout_rate=inside, output_dropout_rate=output)
        model = Transformer(config)
        return np.asarray(model.apply({"params": case.params}, source, rngs=key, method="encode"))

    assert np.allclose(noisy(0.0, 0.0), encoded, atol=1e-5)
    assert set(np.unique(np.round(noisy(0.0, 0.5) / encoded, 3)).tolist()) == {0.0, 2.0}
    within = noisy(0.5, 0.0)
    assert not np.allclose(within, encoded, atol=0.1)
    assert (within == 0).mean() < 0.25  # an output's dropout would make half of it zeros


def test_dropout_is_random_and_repeatable(case: Case) -> None:
    source, targets = tokens(11, 2, 6), tokens(12, 2, 4)

    @jax.jit
    def logits(seed: int) -> jax.Array:
        key = {"dropout": jax.random.key(seed)}
        return case.model.apply(
            {"params": case.params}, source, shifted(targets), targets, rngs=key
        )

    assert bool((logits(0) == logits(0)).all())
    assert float(jnp.abs(logits(0) - logits(1)).max()) > 1e-3


def test_dropout_of_items_wants_ids_of_tokens(world, tmp_path):
    assert not world.id_tokens
    config = RunConfig(str(world.path), str(tmp_path / "run"), prompts=("2-3",))
    sizes = dataclasses.replace(V10, item_dropout_rate=0.3)
    with pytest.raises(UserError, match=r"T5Config.item_dropout_rate: found 0.3 and item ids"):
        Run.create(config, FamilyConfig(max_source=64), sizes)
