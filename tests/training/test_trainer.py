"""The loss and the training loop, on a model that is quick to compile."""

from __future__ import annotations

import dataclasses
import io
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_training import (
    OPTIMIZER,
    STEPS,
    TOY_AXES,
    Batches,
    Toy,
    assert_same_bits,
    toy_params,
    train_toy,
)

from p5jax.core.errors import UserError
from p5jax.parallel.partitioning import MeshConfig, make_mesh
from p5jax.training.checkpoints import available_steps, find_step, restore_params
from p5jax.training.objective import ObjectiveConfig, batch_sums, loss_fn, token_loss
from p5jax.training.trainer import TrainConfig, train
from p5jax.training.writers import read_metrics

ROOT = Path(__file__).resolve().parents[2]


# ---- loss ----


@pytest.mark.extras
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_tokens_is_torchs_cross_entropy(smoothing):
    torch = pytest.importorskip("torch", reason="needs torch (make test-extras)")
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(3, 5, 11)) * 30).astype(np.float32)
    targets = rng.integers(0, 11, (3, 5))
    weights = rng.random((3, 5)).astype(np.float32)
    theirs = torch.tensor(logits, requires_grad=True)
    nll = torch.nn.functional.cross_entropy(
        theirs.reshape(-1, 11),
        torch.tensor(targets).reshape(-1),
        reduction="none",
        label_smoothing=smoothing,
    )
    (nll * torch.tensor(weights).reshape(-1)).sum().backward()

    def total(x):
        nll, uniform, hit = token_loss(x, targets)
        ours = (1 - smoothing) * nll + smoothing * uniform
        return (ours * weights).sum(), (ours, hit)

    gradient, (ours, hit) = jax.grad(total, has_aux=True)(jnp.asarray(logits))
    np.testing.assert_allclose(ours.reshape(-1), nll.detach().numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), atol=1e-6)
    np.testing.assert_array_equal(hit, logits.argmax(-1) == targets)


def test_loss_is_the_mean_over_examples_of_the_mean_over_tokens():
    params, batch = toy_params(), next(Batches())
    logits = np.asarray(
        Toy().apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch["decoder_target_tokens"],
            enable_dropout=False,
        ),
        np.float64,
    )
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    means = []
    for row, target in zip(log_p, batch["decoder_target_tokens"], strict=True):
        means.append(np.mean([-row[i, t] for i, t in enumerate(target) if t > 0]))
    assert len({int((t > 0).sum()) for t in batch["decoder_target_tokens"]}) == 2
    assert float(loss_fn(Toy(), params, batch)) == pytest.approx(np.mean(means), rel=1e-5)


def test_rows_of_weight_zero_change_nothing():
    params, batch = toy_params(), next(Batches())
    padded = {
        name: np.concatenate([value, np.zeros((3, *value.shape[1:]), value.dtype)])
        for name, value in batch.items()
    }
    loss, gradient = jax.value_and_grad(lambda p: loss_fn(Toy(), p, batch))(params)
    again, same = jax.value_and_grad(lambda p: loss_fn(Toy(), p, padded))(params)
    assert float(loss) == pytest.approx(float(again), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradient, same)


def test_labels_are_smoothed_in_what_is_minimised_and_not_in_what_is_reported():
    params, batch = toy_params(), next(Batches())
    inputs = [batch[f"{name}_tokens"] for name in ("encoder_input", "decoder_input")]
    logits = np.asarray(
        Toy().apply({"params": params}, *inputs, inputs[1], enable_dropout=False), np.float64
    )
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    shares = 0.8 * np.eye(log_p.shape[-1])[batch["decoder_target_tokens"]] + 0.2 / log_p.shape[-1]
    smoothed = -((shares * log_p).sum(-1) * batch["decoder_loss_weights"]).sum()
    plain = batch_sums(Toy(), params, batch, None)
    total, sums = batch_sums(Toy(), params, batch, None, config=ObjectiveConfig(0.2))
    assert float(total) == pytest.approx(smoothed, rel=1e-5)
    assert {name: float(value) for name, value in sums.items()} == {
        name: float(value) for name, value in plain[1].items()
    }


# ---- the loop ----


def test_a_run_learns_and_leaves_its_records(uninterrupted):
    run_dir, result = uninterrupted
    assert result.step == STEPS
    records = read_metrics(run_dir / "metrics.jsonl")
    losses = {r["step"]: r["train/loss"] for r in records if "train/loss" in r}
    assert sorted(losses) == [4, 8, 12, 16, 20]
    assert losses[20] < 0.9 * losses[4]
    assert [r["step"] for r in records if "validation/loss" in r] == [10, 20]
    assert all(r["train/examples_per_step"] == 8 for r in records if "train/loss" in r)
    assert list((run_dir / "tensorboard").glob("events*"))
    # the last two and the best; the parameters handed back are the last checkpoint's
    assert available_steps(run_dir / "checkpoints")[-2:] == [15, 20]
    assert_same_bits(restore_params(run_dir / "checkpoints", which="latest"), result.params)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(result.params))


def test_real_tokens_and_examples_are_counted(tmp_path):
    batches = [next(b) for b in [Batches()] for _ in range(4)]
    expected = np.mean(
        [
            (b["encoder_input_tokens"] > 0).sum() + (b["decoder_target_tokens"] > 0).sum()
            for b in batches
        ]
    )
    result = train_toy(tmp_path, config=TrainConfig(steps=4, log_every=4))
    assert result.metrics["train/tokens_per_step"] == pytest.approx(expected)

    class Packed(Batches):
        def __next__(self):
            batch = super().__next__()
            segments = np.tile([1, 1, 2, 3], (8, 1)).astype(np.int32)
            segments[0] = 0  # a row of padding
            return {**batch, "decoder_segment_ids": segments}

    result = train_toy(tmp_path / "packed", Packed(), config=TrainConfig(steps=4, log_every=4))
    assert result.metrics["train/examples_per_step"] == 7 * 3


def test_each_shape_is_announced_once(tmp_path):
    stream = io.StringIO()
    train_toy(tmp_path, stream=stream)
    lines = stream.getvalue().splitlines()
    compiling = [line for line in lines if line.startswith("compiling step")]
    assert sorted(compiling) == [
        "compiling step, shapes 8 x 16, 8 x 4 ...",
        "compiling step, shapes 8 x 8, 8 x 4 ...",
    ]
    assert lines[0].startswith("mesh data")
    assert any(line.startswith("step 20/20  loss ") for line in lines)


def test_the_callers_parameters_survive_donation(tmp_path):
    params = jax.tree.map(jnp.asarray, toy_params())
    train_toy(tmp_path, params=params, config=TrainConfig(steps=2))
    assert_same_bits(params, toy_params())


@pytest.mark.parametrize("packed", [False, True])
def test_accumulation_over_halves_is_the_whole_batch(tmp_path, packed):
    """Without dropout; also where the halves weigh differently."""

    class Quiet(Toy):
        def __call__(self, *arguments, enable_dropout=True, **keywords):
            return super().__call__(*arguments, enable_dropout=False, **keywords)

    class Whole(Batches):
        def __next__(self):
            batch = super().__next__()
            if packed:
                batch["decoder_loss_weights"][:3] = 0
            return batch

    class Halves(Whole):
        def __next__(self):
            if not hasattr(self, "rest") or self.rest is None:
                batch = super().__next__()
                self.rest = {k: v[4:] for k, v in batch.items()}
                return {k: v[:4] for k, v in batch.items()}
            half, self.rest = self.rest, None
            return half

    results = [
        train(
            partial(batch_sums, Quiet()),
            toy_params(),
            TOY_AXES,
            batches,
            dataclasses.replace(OPTIMIZER, accumulate=accumulate),
            make_mesh(MeshConfig(1, 1)),
            TrainConfig(steps=6, log_every=3),
            tmp_path / str(accumulate),
            stream=io.StringIO(),
        )
        for accumulate, batches in [(1, Whole()), (2, Halves())]
    ]
    assert results[0].metrics["train/loss"] == pytest.approx(results[1].metrics["train/loss"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        results[0].params,
        results[1].params,
    )


def test_the_best_by_a_metric_is_kept(tmp_path):
    scores = {2: 0.1, 4: 0.7, 6: 0.3, 8: 0.7, 10: 0.2, 12: 0.6}
    seen = []

    def validate(params, step):
        seen.append(step)
        assert set(params) == {"embedding", "kernel"}
        return {"HR@10": scores[step], "other": -1.0}

    config = TrainConfig(
        steps=12,
        validate_every=2,
        checkpoint_every=3,
        keep=1,
        best_metric="HR@10",
        best_mode="max",
    )
    result = train_toy(tmp_path, config=config, validate=validate)
    assert seen == list(scores)
    assert result.best == {"step": 4, "value": 0.7}
    assert available_steps(tmp_path / "checkpoints") == [4, 12]
    assert find_step(tmp_path / "checkpoints", "best") == 4
    records = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "HR@10" in r]
    assert {r["step"]: r["HR@10"] for r in records} == scores
    with pytest.raises(UserError, match=r"found 'HR@1', expected one of \['HR@10', 'other'"):
        train_toy(
            tmp_path / "typo",
            config=dataclasses.replace(config, best_metric="HR@1"),
            validate=validate,
            validation_batches=(),
        )


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    class Poisoned(Batches):
        def __next__(self):
            batch = super().__next__()
            if self.position == 8:
                batch["decoder_loss_weights"][0, 0] = np.nan
            return batch

    with pytest.raises(UserError, match=r"^step 8: the loss is nan.*checkpoint of step 5 is kept"):
        train_toy(tmp_path, Poisoned())
    assert available_steps(tmp_path / "checkpoints") == [5]
    assert all(
        np.isfinite(x).all() for x in jax.tree.leaves(restore_params(tmp_path / "checkpoints"))
    )


@pytest.mark.parametrize("name", ["seed", "validate_every", "checkpoint_every"])
def test_settings_below_zero_are_refused(name):
    with pytest.raises(
        UserError, match=rf"^TrainConfig\.{name}: found -1, expected 0 (or more|to)"
    ):
        TrainConfig(**{name: -1})


def test_rows_that_do_not_split_and_a_pipeline_that_ends(tmp_path):
    def end():
        raise StopIteration

    with pytest.raises(UserError, match="step 4: the pipeline ended"):
        train_toy(tmp_path, Batches(at={3: end}))
