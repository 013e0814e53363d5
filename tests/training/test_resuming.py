"""Runs that are stopped, killed, or spread over devices and processes end as the others do."""

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
import numpy as np
import pytest
from toy_training import (
    OPTIMIZER,
    STEPS,
    Batches,
    assert_same_bits,
    train_records,
    train_toy,
)

from p5jax.core.errors import Interrupted, UserError
from p5jax.training.checkpoints import Checkpoints, available_steps, restore_params
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.resuming import newest_whole
from p5jax.training.trainer import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).parents[1] / "toy_training.py"


# ---- interruption and resuming ----


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_resumed_run_is_the_same(tmp_path, uninterrupted, number):
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    batches = Batches(at={6: lambda: os.kill(os.getpid(), number)})
    with pytest.raises(Interrupted, match="stopped at step 7; the same command resumes") as stop:
        train_toy(tmp_path, batches)
    assert stop.value.signal == number
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before
    assert available_steps(tmp_path / "checkpoints") == [5, 7]
    stream = io.StringIO()
    result = train_toy(tmp_path, Batches(), stream=stream)
    assert "resuming after step 7" in stream.getvalue()
    run_dir, expected = uninterrupted
    assert (result.step, result.best) == (expected.step, expected.best)
    assert_same_bits(result.params, expected.params)
    assert train_records(tmp_path) == train_records(run_dir)


def test_a_damaged_checkpoint_is_set_aside_and_the_end_is_the_same(tmp_path, uninterrupted, capsys):
    """The run goes on after the step before; what was damaged comes again, bit for bit."""
    batches = Batches(at={6: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    with pytest.raises(Interrupted, match="stopped at step 7"):
        train_toy(tmp_path, batches)
    checkpoints = tmp_path / "checkpoints"
    state = checkpoints / "checkpoint_7" / "state"
    data = max(state.rglob("d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    result = train_toy(tmp_path, Batches())
    note = capsys.readouterr().err
    assert "note: " in note
    assert "checkpoint_7: found a damaged checkpoint (" in note
    assert "set aside as damaged_checkpoint_7, going on after step 5" in note
    run_dir, expected = uninterrupted
    assert (result.step, result.best) == (expected.step, expected.best)
    assert_same_bits(result.params, expected.params)
    assert train_records(tmp_path) == train_records(run_dir)
    for step in available_steps(checkpoints):
        (checkpoints / f"checkpoint_{step}" / "progress" / "metadata").write_text("{}")
    before = sorted(checkpoints.iterdir())
    with pytest.raises(UserError, match=f"checkpoint_{STEPS}: found a damaged checkpoint"):
        train_toy(tmp_path, Batches())
    assert sorted(checkpoints.iterdir()) == before


def test_several_processes_say_which_checkpoint_to_move_away(tmp_path, monkeypatch):
    for step in (2, 5):
        (tmp_path / f"checkpoint_{step}").mkdir()
    path = tmp_path / "checkpoint_5"
    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints, "steps", lambda: [2, 5])
        with monkeypatch.context() as several:
            several.setattr(jax, "process_count", lambda: 2)
            with pytest.raises(UserError, match=f"too; move {path} away and start again$"):
                newest_whole(checkpoints, {}, {})


def test_a_validation_left_out_by_a_signal_is_made_up_for(tmp_path, uninterrupted):
    batches = Batches(at={9: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    with pytest.raises(Interrupted, match="at step 10;"):
        train_toy(tmp_path, batches)
    result = train_toy(tmp_path)
    run_dir, expected = uninterrupted
    assert result.best == expected.best
    assert train_records(tmp_path) == train_records(run_dir)


@pytest.mark.parametrize("in_validation", [False, True])
def test_a_signal_at_the_end_is_heard_after_all_is_saved(tmp_path, in_validation):
    def stop():
        os.kill(os.getpid(), signal.SIGINT)

    config = TrainConfig(steps=4, log_every=2)
    expected = train_toy(tmp_path / "whole", config=config)
    batches = Batches(at={} if in_validation else {3: stop})
    validate = (lambda params, step: stop() or {}) if in_validation else None
    text = "finished step 4, then stopped; the same command resumes what follows"
    with pytest.raises(Interrupted, match=text) as caught:
        train_toy(tmp_path / "stopped", batches, config=config, validate=validate)
    assert caught.value.signal == signal.SIGINT
    again = train_toy(tmp_path / "stopped", config=config)
    assert (again.step, again.best) == (4, expected.best)
    assert_same_bits(again.params, expected.params)
    assert train_records(tmp_path / "stopped") == train_records(tmp_path / "whole")


def test_accumulation_resumes_the_same(tmp_path):
    optimizer = dataclasses.replace(OPTIMIZER, accumulate=3)
    expected = train_toy(tmp_path / "a", optimizer=optimizer)
    batches = Batches(at={22: lambda: os.kill(os.getpid(), signal.SIGTERM)})
    with pytest.raises(Interrupted, match="at step 8;"):
        train_toy(tmp_path / "b", batches, optimizer=optimizer)
    result = train_toy(tmp_path / "b", optimizer=optimizer)
    assert_same_bits(result.params, expected.params)


def test_a_finished_run_is_left_as_it_is(tmp_path):
    config = TrainConfig(steps=4, log_every=2)
    first = train_toy(tmp_path, config=config)
    again = train_toy(tmp_path, config=config)
    assert again.step == first.step == 4
    assert again.metrics == first.metrics
    assert_same_bits(again.params, first.params)


def test_a_run_of_other_things_is_not_resumed(tmp_path):
    config = TrainConfig(steps=2)
    fingerprint = {"dataset": "abc", "pipeline": {"lengths": (64, 128), "rows": 8}}
    train_toy(tmp_path, config=config, fingerprint=fingerprint)
    train_toy(tmp_path, config=config, fingerprint=fingerprint)
    with pytest.raises(UserError, match=r"found dataset = 'abc', expected 'abd'; choose"):
        train_toy(tmp_path, config=config, fingerprint={**fingerprint, "dataset": "abd"})
    other = {**fingerprint, "pipeline": {"lengths": (64, 128), "rows": 9}}
    with pytest.raises(UserError, match=r"found pipeline.rows = 8, expected 9; choose"):
        train_toy(tmp_path, config=config, fingerprint=other)
    other = {"a": 1, "b": "long" * 1000, "dataset": "abd", "pipeline": fingerprint["pipeline"]}
    with pytest.raises(UserError) as caught:
        train_toy(tmp_path, config=config, fingerprint={**other, "e": 5, "f": 6})
    message = str(caught.value)
    assert "found a = None, expected 1 (and 4 more)" in message
    with pytest.raises(UserError, match="found b = None, expected 'longlong") as caught:
        train_toy(tmp_path, config=config, fingerprint={**fingerprint, "b": "long" * 1000})
    assert len(str(caught.value)) < len(str(tmp_path)) + 300
    with pytest.raises(UserError, match="found no array state/param_states"):
        train_toy(
            tmp_path,
            config=config,
            fingerprint=fingerprint,
            optimizer=OptimizerConfig(name="adafactor"),
        )


@pytest.mark.check
@pytest.mark.parametrize("schedule", ["constant", "rsqrt"])
def test_more_steps_continue_a_schedule_that_goes_on(tmp_path, schedule):
    """The warm-up is the first plan's: 2 of 4 steps, so a constant rate is as over 8 from there."""
    optimizer = dataclasses.replace(OPTIMIZER, schedule=schedule, warmup_fraction=0.5)

    def to(steps, folder, **keywords):
        config = TrainConfig(steps=steps, log_every=1)
        made_from = {"TrainConfig": config.identity(), "data": "abc"}
        return train_toy(
            folder, config=config, fingerprint=made_from, optimizer=optimizer, **keywords
        )

    to(4, tmp_path)
    result = to(8, tmp_path)
    to(8, tmp_path)  # nothing is left to do
    assert result.step == 8
    peak, W = OPTIMIZER.learning_rate, 2
    name = "train/learning_rate"
    rates = [record[name] for record in train_records(tmp_path) if name in record]
    after = [peak if schedule == "constant" else peak * (W / step) ** 0.5 for step in range(2, 8)]
    np.testing.assert_allclose(rates, [0, peak / 2, *after], rtol=1e-6)
    if schedule == "constant":  # the longer run, whose warm-up is a quarter
        optimizer = dataclasses.replace(optimizer, warmup_fraction=0.25)
        assert_same_bits(to(8, tmp_path / "whole").params, result.params)
    with pytest.raises(UserError, match="at step 8, beyond the 3 steps asked for"):
        to(3, tmp_path)


@pytest.mark.check
def test_more_steps_than_a_linear_schedule_has_are_refused_and_nothing_changes(tmp_path):
    config = TrainConfig(steps=2)
    train_toy(tmp_path, config=config, fingerprint={"TrainConfig": config.identity()})

    def tree():
        return {
            path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in [tmp_path, *tmp_path.rglob("*")]
        }

    before, longer = tree(), dataclasses.replace(config, steps=3)
    with pytest.raises(UserError, match="found TrainConfig.steps = 2, expected 3: the linear"):
        train_toy(tmp_path, config=longer, fingerprint={"TrainConfig": longer.identity()})
    other = {"TrainConfig": longer.identity(), "data": 1}
    with pytest.raises(UserError, match=r"found TrainConfig.steps = 2, expected 3 \(and 1 more"):
        train_toy(tmp_path, config=longer, fingerprint=other)
    assert tree() == before


def test_a_run_has_begun_once_nothing_can_refuse_it(tmp_path):
    begun, config = [], TrainConfig(steps=2)
    train_toy(tmp_path, config=config, fingerprint={"a": 1}, begun=lambda: begun.append("new"))
    train_toy(tmp_path, config=config, fingerprint={"a": 1}, begun=lambda: begun.append("again"))
    with pytest.raises(UserError, match="found a = 1, expected 2"):
        train_toy(tmp_path, config=config, fingerprint={"a": 2}, begun=lambda: begun.append("no"))
    assert begun == ["new", "again"]


# ---- in processes of their own ----


def _start(task: str, run_dir: Path, *arguments: str, devices: int = 1) -> subprocess.Popen[str]:
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(SCRIPT), task, str(run_dir), *arguments]
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
    assert train_records(tmp_path / "killed") == train_records(tmp_path / "whole")
    names = {p.name for p in (tmp_path / "killed" / "checkpoints").iterdir()}
    assert names == {p.name for p in (tmp_path / "whole" / "checkpoints").iterdir()}


@pytest.mark.parametrize("fsdp", [(), pytest.param(("fsdp",), marks=pytest.mark.check)])
def test_one_device_is_eight_devices(tmp_path, fsdp):
    """20 steps of the Transformer with dropout: data 4 x model 2, with and without fsdp, against a
    single device."""
    pytest.importorskip("p5jax.models.t5")
    one = _start("transformer", tmp_path / "one", "1", "1")
    eight = _start("transformer", tmp_path / "eight", "4", "2", *fsdp, devices=8)
    assert "mesh data 1 x model 1: 1 " in _finish(one)
    assert f"mesh {', '.join(('data 4 x model 2', *fsdp))}: 8 " in _finish(eight)
    one_loss, loss = (
        [r["train/loss"] for r in train_records(tmp_path / name) if "train/loss" in r]
        for name in ("one", "eight")
    )
    assert len(one_loss) == 5
    expected, found = (_final(tmp_path / name) for name in ("one", "eight"))
    np.testing.assert_allclose(one_loss, loss, rtol=1e-5)
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
    stopped, last = "; the same command resumes", f"finished step {STEPS}, then stopped"
    ends = f"stopped at step 8{stopped} it", f"{last}{stopped} what follows", f"step {STEPS}"
    for stop_at, end in zip(("6", str(STEPS - 1), "-1"), ends, strict=True):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        pair = [_start("process", tmp_path, stop_at, port, str(i)) for i in range(2)]
        assert [_finish(p).splitlines()[-1] for p in pair] == [end] * 2
    run_dir, expected = uninterrupted
    for name, value in expected.params.items():
        np.testing.assert_allclose(_final(tmp_path)[name], value, atol=2e-5, err_msg=name)
    losses = [
        [r["train/loss"] for r in train_records(path) if "train/loss" in r]
        for path in (tmp_path, run_dir)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_training_needs_no_tensorflow_or_torch():
    code = (
        "import sys, p5jax.training.trainer\n"
        "absent = ('tensorflow', 'seqio', 'apache_beam', 'torch', 'transformers')\n"
        "print([module for module in absent if module in sys.modules])"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"
