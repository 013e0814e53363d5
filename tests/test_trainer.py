"""The loop, on tiny models; run as a script it trains one, for the tests that need a process."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.experimental.compilation_cache import compilation_cache

from p5jax.errors import UserError
from p5jax.training.checkpoints import available_steps, find_step, restore_params
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.partitioning import MeshConfig, make_mesh
from p5jax.training.step import loss_fn, token_nll
from p5jax.training.trainer import TrainConfig, train
from p5jax.training.writers import read_metrics

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = 64
STEPS = 20


class Toy(nn.Module):
    """A stand-in with the Transformer's call: quick to compile, and with dropout."""

    @nn.compact
    def __call__(
        self,
        encoder_input_tokens,
        decoder_input_tokens,
        decoder_target_tokens,
        encoder_segment_ids=None,
        decoder_segment_ids=None,
        *,
        enable_dropout=True,
    ):
        table = self.param("embedding", nn.initializers.normal(1.0), (VOCABULARY, 16))
        real = (encoder_input_tokens > 0)[..., None]
        source = (table[encoder_input_tokens] * real).sum(axis=1, keepdims=True)
        x = table[decoder_input_tokens] + source
        x = nn.Dropout(0.1)(jnp.tanh(x), deterministic=not enable_dropout)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (16, VOCABULARY))
        return x @ kernel


TOY_AXES = {"embedding": ("vocab", "embed"), "kernel": ("embed", "vocab")}


def _toy_params():
    tokens = jnp.ones((1, 2), jnp.int32)
    return Toy().init(jax.random.key(0), tokens, tokens, tokens, enable_dropout=False)["params"]


class Batches:
    """Random batches of skewed tokens, a function of (seed, position) alone.

    `at` maps a position to what is done when the batch there is asked for.
    """

    def __init__(self, seed=0, lengths=(8, 16), at=None):
        self.seed, self.lengths, self.position = seed, lengths, 0
        self.at = at or {}

    def __next__(self):
        if self.position in self.at:
            self.at[self.position]()
        rng = np.random.default_rng([self.seed, self.position])
        length = self.lengths[int(rng.integers(len(self.lengths)))]
        self.position += 1
        source = (3 + (VOCABULARY - 3) * rng.random((8, length)) ** 4).astype(np.int32)
        target = source[:, :4].copy()
        target[:, 3] = np.where(rng.random(8) < 0.5, 0, target[:, 3])
        real = target > 0
        return {
            "encoder_input_tokens": source,
            "decoder_input_tokens": np.pad(target[:, :-1], ((0, 0), (1, 0))),
            "decoder_target_tokens": target,
            "decoder_loss_weights": (real / real.sum(1, keepdims=True)).astype(np.float32),
        }

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]


CONFIG = TrainConfig(steps=STEPS, log_every=4, checkpoint_every=5, validate_every=10)
# Adam divides by the gradient's size: a larger eps keeps rounding from growing to a step.
OPTIMIZER = OptimizerConfig(learning_rate=0.03, warmup_fraction=0.1, eps=1e-3)


def _train(run_dir, batches=None, config=CONFIG, optimizer=OPTIMIZER, params=None, **keywords):
    mesh = make_mesh(MeshConfig(1, 1) if jax.device_count() == 1 else MeshConfig())
    params = _toy_params() if params is None else params
    keywords.setdefault("validation_batches", [next(Batches(9))])
    keywords.setdefault("stream", io.StringIO())
    return train(
        Toy(),
        params,
        TOY_AXES,
        batches or Batches(),
        optimizer,
        mesh,
        config,
        run_dir,
        **keywords,
    )


def _assert_same_bits(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y, strict=True), a, b)


def _train_records(run_dir):
    """Records without the clock's values."""
    records = read_metrics(run_dir / "metrics.jsonl")
    return [{k: v for k, v in r.items() if k != "time" and "second" not in k} for r in records]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The run folder and result that every interrupted run must reach."""
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    return run_dir, _train(run_dir)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Every run compiles the same few programs: keep them, here and for the subprocesses."""
    values = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("xla")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in values}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        compilation_cache.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


# ---- loss ----


def test_token_nll_is_torchs_cross_entropy():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(3, 5, 11)) * 30).astype(np.float32)
    targets = rng.integers(0, 11, (3, 5))
    weights = rng.random((3, 5)).astype(np.float32)
    theirs = torch.tensor(logits, requires_grad=True)
    nll = torch.nn.functional.cross_entropy(
        theirs.reshape(-1, 11), torch.tensor(targets).reshape(-1), reduction="none"
    )
    (nll * torch.tensor(weights).reshape(-1)).sum().backward()

    def total(x):
        ours, hit = token_nll(x, targets)
        return (ours * weights).sum(), (ours, hit)

    gradient, (ours, hit) = jax.grad(total, has_aux=True)(jnp.asarray(logits))
    np.testing.assert_allclose(ours.reshape(-1), nll.detach().numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), atol=1e-6)
    np.testing.assert_array_equal(hit, logits.argmax(-1) == targets)


def test_loss_is_the_mean_over_examples_of_the_mean_over_tokens():
    params, batch = _toy_params(), next(Batches())
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
    params, batch = _toy_params(), next(Batches())
    padded = {
        name: np.concatenate([value, np.zeros((3, *value.shape[1:]), value.dtype)])
        for name, value in batch.items()
    }
    loss, gradient = jax.value_and_grad(lambda p: loss_fn(Toy(), p, batch))(params)
    again, same = jax.value_and_grad(lambda p: loss_fn(Toy(), p, padded))(params)
    assert float(loss) == pytest.approx(float(again), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradient, same)


# ---- the loop ----


def test_a_run_learns_and_leaves_its_records(uninterrupted):
    run_dir, result = uninterrupted
    assert (result.status, result.signal, result.step) == ("finished", None, STEPS)
    records = read_metrics(run_dir / "metrics.jsonl")
    losses = {r["step"]: r["train/loss"] for r in records if "train/loss" in r}
    assert sorted(losses) == [4, 8, 12, 16, 20]
    assert losses[20] < 0.9 * losses[4]
    assert [r["step"] for r in records if "validation/loss" in r] == [10, 20]
    assert all(r["train/examples_per_step"] == 8 for r in records if "train/loss" in r)
    assert list((run_dir / "tensorboard").glob("events*"))
    # the last two and the best; the parameters handed back are the last checkpoint's
    assert available_steps(run_dir / "checkpoints")[-2:] == [15, 20]
    _assert_same_bits(restore_params(run_dir / "checkpoints", which="latest"), result.params)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(result.params))


def test_real_tokens_and_examples_are_counted(tmp_path):
    batches = [next(b) for b in [Batches()] for _ in range(4)]
    expected = np.mean(
        [
            (b["encoder_input_tokens"] > 0).sum() + (b["decoder_target_tokens"] > 0).sum()
            for b in batches
        ]
    )
    result = _train(tmp_path, config=TrainConfig(steps=4, log_every=4))
    assert result.metrics["train/tokens_per_step"] == pytest.approx(expected)

    class Packed(Batches):
        def __next__(self):
            batch = super().__next__()
            segments = np.tile([1, 1, 2, 3], (8, 1)).astype(np.int32)
            segments[0] = 0  # a row of padding
            return {**batch, "decoder_segment_ids": segments}

    result = _train(tmp_path / "packed", Packed(), config=TrainConfig(steps=4, log_every=4))
    assert result.metrics["train/examples_per_step"] == 7 * 3


def test_each_shape_is_announced_once(tmp_path):
    stream = io.StringIO()
    _train(tmp_path, stream=stream)
    lines = stream.getvalue().splitlines()
    compiling = [line for line in lines if line.startswith("compiling step")]
    assert sorted(compiling) == [
        "compiling step, shape 8 x (16 -> 4) ...",
        "compiling step, shape 8 x (8 -> 4) ...",
    ]
    assert lines[0].startswith("mesh data")
    assert any(line.startswith("step 20/20  loss ") for line in lines)


def test_the_callers_parameters_survive_donation(tmp_path):
    params = jax.tree.map(jnp.asarray, _toy_params())
    _train(tmp_path, params=params, config=TrainConfig(steps=2))
    _assert_same_bits(params, _toy_params())


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
            Quiet(),
            _toy_params(),
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
    result = _train(tmp_path, config=config, validate=validate)
    assert seen == list(scores)
    assert result.best == {"step": 4, "value": 0.7}
    assert available_steps(tmp_path / "checkpoints") == [4, 12]
    assert find_step(tmp_path / "checkpoints", "best") == 4
    records = [r for r in read_metrics(tmp_path / "metrics.jsonl") if "HR@10" in r]
    assert {r["step"]: r["HR@10"] for r in records} == scores
    with pytest.raises(UserError, match=r"found 'HR@1', expected one of \['HR@10', 'other'"):
        _train(
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
        _train(tmp_path, Poisoned())
    assert available_steps(tmp_path / "checkpoints") == [5]
    assert all(
        np.isfinite(x).all() for x in jax.tree.leaves(restore_params(tmp_path / "checkpoints"))
    )


def test_rows_that_do_not_split_and_a_pipeline_that_ends(tmp_path):
    def end():
        raise StopIteration

    with pytest.raises(UserError, match="step 4: the pipeline ended"):
        _train(tmp_path, Batches(at={3: end}))


# ---- interruption and resuming ----


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_resumed_run_is_the_same(tmp_path, uninterrupted, number):
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    batches = Batches(at={6: lambda: os.kill(os.getpid(), number)})
    result = _train(tmp_path, batches)
    assert (result.status, result.signal, result.step) == ("interrupted", number, 7)
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before
    assert available_steps(tmp_path / "checkpoints") == [5, 7]
    stream = io.StringIO()
    result = _train(tmp_path, Batches(), stream=stream)
    assert "resuming after step 7" in stream.getvalue()
    run_dir, expected = uninterrupted
    assert (result.status, result.best) == ("finished", expected.best)
    _assert_same_bits(result.params, expected.params)
    assert _train_records(tmp_path) == _train_records(run_dir)


def test_a_validation_left_out_by_a_signal_is_made_up_for(tmp_path, uninterrupted):
    batches = Batches(at={9: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    assert _train(tmp_path, batches).step == 10
    result = _train(tmp_path)
    run_dir, expected = uninterrupted
    assert result.best == expected.best
    assert _train_records(tmp_path) == _train_records(run_dir)


def test_accumulation_resumes_the_same(tmp_path):
    optimizer = dataclasses.replace(OPTIMIZER, accumulate=3)
    expected = _train(tmp_path / "a", optimizer=optimizer)
    batches = Batches(at={22: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    assert _train(tmp_path / "b", batches, optimizer=optimizer).step == 8
    result = _train(tmp_path / "b", optimizer=optimizer)
    _assert_same_bits(result.params, expected.params)


def test_a_finished_run_is_left_as_it_is(tmp_path):
    config = TrainConfig(steps=4, log_every=2)
    first = _train(tmp_path, config=config)
    again = _train(tmp_path, config=config)
    assert again.status == "finished"
    assert again.metrics == first.metrics
    _assert_same_bits(again.params, first.params)


def test_a_run_of_other_things_is_not_resumed(tmp_path):
    config = TrainConfig(steps=2)
    fingerprint = {"dataset": "abc", "pipeline": {"lengths": (64, 128), "rows": 8}}
    _train(tmp_path, config=config, fingerprint=fingerprint)
    _train(tmp_path, config=config, fingerprint=fingerprint)
    with pytest.raises(UserError, match=r"cannot resume: dataset was 'abc' and is now 'abd'$"):
        _train(tmp_path, config=config, fingerprint={**fingerprint, "dataset": "abd"})
    other = {**fingerprint, "pipeline": {"lengths": (64, 128), "rows": 9}}
    with pytest.raises(UserError, match=r"cannot resume: pipeline.rows was 8 and is now 9$"):
        _train(tmp_path, config=config, fingerprint=other)
    with pytest.raises(UserError, match="found no array state/param_states"):
        _train(
            tmp_path,
            config=config,
            fingerprint=fingerprint,
            optimizer=OptimizerConfig(name="adafactor"),
        )


# ---- in processes of their own ----


def _start(task: str, run_dir: Path, *arguments: str, devices: int = 1) -> subprocess.Popen[str]:
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, __file__, task, str(run_dir), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True)


def _finish(process: subprocess.Popen[str], status: int = 0) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    return out


def _final(run_dir: Path) -> dict[str, Any]:
    with np.load(run_dir / "final.npz") as file:
        return dict(file)


def test_killed_runs_resume_to_the_same_bits(tmp_path):
    """kill -9 while the first checkpoint is being written, and again later, in mid-run."""
    whole = _start("toy", tmp_path / "whole", "-1")
    _finish(_start("toy", tmp_path / "killed", "5"), -signal.SIGKILL)
    _finish(_start("toy", tmp_path / "killed", "13"), -signal.SIGKILL)
    assert available_steps(tmp_path / "killed" / "checkpoints")
    _finish(_start("toy", tmp_path / "killed", "-1"))
    _finish(whole)
    expected, found = _final(tmp_path / "whole"), _final(tmp_path / "killed")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, strict=True)
    assert _train_records(tmp_path / "killed") == _train_records(tmp_path / "whole")
    names = {p.name for p in (tmp_path / "killed" / "checkpoints").iterdir()}
    assert names == {p.name for p in (tmp_path / "whole" / "checkpoints").iterdir()}


def test_one_device_is_eight_devices(tmp_path):
    """20 steps of the Transformer with dropout: data 4 x model 2 against a single device."""
    pytest.importorskip("p5jax.models.t5")
    one = _start("transformer", tmp_path / "one", "1", "1")
    eight = _start("transformer", tmp_path / "eight", "4", "2", devices=8)
    assert "mesh data 1 x model 1: 1 " in _finish(one)
    assert "mesh data 4 x model 2: 8 " in _finish(eight)
    losses = [
        [r["train/loss"] for r in _train_records(tmp_path / name) if "train/loss" in r]
        for name in ("one", "eight")
    ]
    assert len(losses[0]) == 5
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    expected, found = _final(tmp_path / "one"), _final(tmp_path / "eight")
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=2e-5, err_msg=name)
    # a checkpoint of eight devices is read on one
    restored = restore_params(tmp_path / "eight" / "checkpoints", which="latest")
    for path, leaf in jax.tree_util.tree_leaves_with_path(restored):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        np.testing.assert_array_equal(np.asarray(leaf), found[name])


@pytest.mark.check
def test_two_processes_are_one_and_stop_together(tmp_path, uninterrupted):
    """Each reads half of the rows; a signal to one of them stops both, and both resume."""
    for stop_at, step in (("6", 8), ("-1", STEPS)):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        pair = [_start("process", tmp_path, stop_at, port, str(i)) for i in range(2)]
        assert [_finish(p).splitlines()[-1] for p in pair] == [f"step {step}"] * 2
    run_dir, expected = uninterrupted
    for name, value in expected.params.items():
        np.testing.assert_allclose(_final(tmp_path)[name], value, atol=2e-5, err_msg=name)
    losses = [
        [r["train/loss"] for r in _train_records(path) if "train/loss" in r]
        for path in (tmp_path, run_dir)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_training_needs_no_tensorflow_or_torch():
    code = (
        "import sys, p5jax.training.trainer\n"
        "print([m for m in ('tensorflow', 'seqio', 'torch', 'transformers') if m in sys.modules])"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"


def _train_in_process(run_dir: Path, stop_at: int, port: str, process: str) -> Any:
    """One of two processes with a device each; the second gets a signal at a batch."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, int(process))
    rows = slice(int(process) * 4, int(process) * 4 + 4)

    class Half(Batches):
        def __next__(self):
            return {name: value[rows] for name, value in super().__next__().items()}

    at = {stop_at: lambda: os.kill(os.getpid(), signal.SIGTERM)} if process == "1" else {}
    return _train(run_dir, Half(at=at), validation_batches=[next(Half(9))])


def _main(task: str, run_dir: str, *arguments: str) -> None:
    if task == "toy":
        die_at = int(arguments[0])
        batches = Batches(at={die_at: lambda: os.kill(os.getpid(), signal.SIGKILL)})
        result = _train(Path(run_dir), batches)
    elif task == "process":
        result = _train_in_process(Path(run_dir), int(arguments[0]), arguments[1], arguments[2])
    else:
        from p5jax.models.t5 import T5Config, Transformer, init_params, param_axes

        model = Transformer(
            T5Config(
                vocab_size=VOCABULARY,
                emb_dim=16,
                num_heads=4,
                num_encoder_layers=1,
                num_decoder_layers=1,
                head_dim=8,
                mlp_dim=32,
                word_starts=np.packbits(np.arange(VOCABULARY) % 3 == 0).tobytes(),
            )
        )
        data, size = map(int, arguments)
        result = train(
            model,
            init_params(model, jax.random.key(0)),
            param_axes(model),
            Batches(lengths=(12,)),
            OPTIMIZER,
            make_mesh(MeshConfig(data, size)),
            CONFIG,
            run_dir,
            stream=sys.stdout,
        )
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(result.params)
    }
    if jax.process_index() == 0:
        np.savez(Path(run_dir) / "final.npz", **leaves)
    print(f"step {result.step}")


if __name__ == "__main__":
    _main(*sys.argv[1:])
