"""Commands in two processes of two devices do what they do in one process, and end together."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from toy_training import assert_same_bits, train_records

from p5jax.training.checkpoints import available_steps, restore_params

pytestmark = pytest.mark.check
STEPS = 12
SETTINGS = (
    *("T5Config.emb_dim=16", "T5Config.mlp_dim=32", "T5Config.num_heads=2"),
    *("T5Config.num_encoder_layers=1", "T5Config.num_decoder_layers=1"),
    *("RunConfig.families=('rating', 'sequential')", "RunConfig.vocabulary_size=300"),
    *("RunConfig.prompts=('1-1', '2-3')", "BATCH_SIZE=8", "ValidationConfig.examples=12"),
    *("FamilyConfig.max_source=128", "PipelineConfig.source_lengths=(128,)"),
    *(
        "PipelineConfig.target_lengths=(2, 8)",
        "PipelineConfig.rates={'rating': 0.3, 'sequential': 0.7}",
    ),
    *("ValidationConfig.rank_users=6", "TrainConfig.validate_every=6", "TrainConfig.log_every=2"),
    *("TrainConfig.checkpoint_every=4", "OptimizerConfig.eps=1e-3", "OPTIMIZER=adamw"),
)


def start(
    *command: str, processes: int = 1, devices: int = 1, **environment: str
) -> list[subprocess.Popen[str]]:
    """One p5jax command in some processes of some simulated devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    started = []
    for process in range(processes):
        if processes > 1:
            env |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)}
            env |= {"JAX_PROCESS_ID": str(process)}
        arguments = [sys.executable, "-u", "-m", "p5jax.cli.main", *command]
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(arguments, env=env | environment, stdout=pipe, stderr=pipe, text=True)
        )
    return started


def finish(started: list[subprocess.Popen[str]], *statuses: int) -> list[tuple[str, str]]:
    """What each process has printed; its exit status must be 0, or as given."""
    printed = [process.communicate(timeout=300) for process in started]
    found = [process.returncode for process in started]
    assert found == list(statuses or [0] * len(started)), printed
    return printed


def train(world, run: Path, mesh: tuple[int, int] = (1, 1), *more: str) -> list[str]:
    settings = (
        *(f"DATASET={world.path}", f"RUN_DIR={run}", f"STEPS={STEPS}", *SETTINGS, *more),
        *(f"MeshConfig.data={mesh[0]}", f"MeshConfig.model={mesh[1]}"),
    )
    arguments = [f"--gin.{setting}" for setting in settings]
    return ["train", "--gin_file=runs/p5.gin", "--gin_file=models/tiny.gin", *arguments]


PAIR = {"processes": 2, "devices": 2}


@pytest.fixture(scope="module")
def one(world, tmp_path_factory) -> Path:
    """The run of one process with one device."""
    run = tmp_path_factory.mktemp("one") / "run"
    finish(start(*train(world, run)))
    return run


@pytest.fixture(scope="module")
def pair(world, tmp_path_factory) -> Path:
    """The run of two processes with two devices each, data 2 x model 2."""
    run = tmp_path_factory.mktemp("pair") / "run"
    first, second = finish(start(*train(world, run, (2, 2)), **PAIR))
    assert "2 processes, by JAX_COORDINATOR_ADDRESS" in first[1]
    assert "mesh data 2 x model 2: 4 cpu device(s), 2 process(es)" in first[1]
    assert "compiling validation, shapes 8 x 128, 8 x 8" in first[1]  # each brings half of the rows
    assert second[0] == first[0] == ""
    said = second[1].replace("[Gloo]", "").replace("Rank", "")  # Gloo's lines may run together
    for line in filter(None, map(str.strip, said.splitlines())):
        assert "connected peer ranks" in line, line  # all other lines are the primary's
    return run


def assert_same_training(run: Path, other: Path) -> None:
    """The same records and parameters, to the rounding of sums in another order."""
    for mine, theirs in zip(train_records(run), train_records(other), strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-7), name
    expected, found = (restore_params(r / "checkpoints", which="latest") for r in (run, other))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), expected, found)


def test_a_pair_trains_as_one(world, one, pair, tmp_path):
    """Also as one process with four devices, with fsdp over four, and where two processes hold one
    model between them, so that both feed all rows."""
    four = start(*train(world, tmp_path / "four", (2, 2)), devices=4)
    fsdp = start(*train(world, tmp_path / "fsdp", (4, 1), "MeshConfig.fsdp=True"), **PAIR)
    spanning = finish(start(*train(world, tmp_path / "spanning", (1, 2)), processes=2))
    assert "compiling step, shapes 8 x" in spanning[0][1]
    assert "data 2 x model 2: 4 cpu" in finish(four)[0][1]
    assert "data 4 x model 1, fsdp: 4 cpu" in finish(fsdp)[0][1]
    for run in (pair, *(tmp_path / name for name in ("four", "fsdp", "spanning"))):
        assert_same_training(one, run)
        names = sorted(p.name for p in run.iterdir())
        assert names == sorted(p.name for p in one.iterdir())
        assert len(list((run / "tensorboard").iterdir())) == 2  # as one process writes


def test_a_pair_evaluates_and_ranks_as_one(one, tmp_path):
    def evaluate(*more: str, **processes: int) -> tuple[dict, dict]:
        asked = ("--prompts", "1-1,2-3", "--limit", "30", "--json")
        printed = finish(start("evaluate", str(one), *asked, *more, **processes))
        assert all(out == "" for out, _ in printed[1:])
        folder = one / "evaluation" / "test-limit-30"
        tables = {file.name: pq.read_table(file) for file in folder.glob("*.parquet")}
        return json.loads(printed[0][0]), tables

    alone, tables = evaluate()
    assert len(alone["results"]) >= 2
    together, others = evaluate("--model-parallel", "2", **PAIR)
    for mine, theirs in zip(alone["results"], together["results"], strict=True):
        for name, values in mine["metrics"].items():
            assert values == pytest.approx(theirs["metrics"][name], abs=1e-5, nan_ok=True), name
    assert tables.keys() == others.keys()
    for name, table in tables.items():
        assert table.column_names == others[name].column_names
        for column in table.column_names:
            ours, theirs = (t[column].to_numpy() for t in (table, others[name]))
            if ours.dtype.kind in "if":
                np.testing.assert_allclose(ours, theirs, atol=1e-4, err_msg=f"{name} {column}")

    options = ("-k", "7", "--exact", "--beam", "8", "--batch-size", "6")
    commands = [("rank", str(one), *options, "--out", str(tmp_path / n)) for n in ("one", "pair")]
    finish(start(*commands[0]))
    finish(start(*commands[1], "--model-parallel", "2", **PAIR))
    ours, theirs = (pq.read_table(tmp_path / name).to_pylist() for name in ("one", "pair"))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["user"] == other["user"]
        assert mine["log_probabilities"] == pytest.approx(other["log_probabilities"], abs=1e-4)
        assert mine["exact"]
        assert other["exact"]
    assert np.mean([m["items"] == o["items"] for m, o in zip(ours, theirs, strict=True)]) > 0.95


LONG = ("STEPS=4000", "ValidationConfig.rank_users=0", "TrainConfig.validate_every=0")


def wait_for_steps(run: Path, step: int) -> None:
    """Until a checkpoint of the step or a later one is there."""
    for _ in range(1200):
        if max(available_steps(run / "checkpoints"), default=0) >= step:
            return
        time.sleep(0.1)
    raise AssertionError(f"no checkpoint of step {step}")


def kill_one(command: list[str], run: Path, victim: int, step: int) -> int:
    """Kill one of a pair after a step; return the last step that the other has saved."""
    started = start(*command, **PAIR)
    wait_for_steps(run, step)
    started[victim].kill()
    since = time.monotonic()
    _, said = started[1 - victim].communicate(timeout=120)
    assert time.monotonic() - since < 20
    assert started[1 - victim].returncode == 1, said
    last = [line for line in said.splitlines() if line.startswith("p5jax: ")][-1]  # jax says more
    stops = rf"p5jax: error: process {1 - victim} of 2 stops after step \d+: another process has "
    assert re.match(stops, last), said
    assert "Traceback" not in said
    started[victim].communicate()
    return available_steps(run / "checkpoints")[-1]


def test_one_of_a_pair_is_killed_and_the_pair_resumes(world, tmp_path):
    """Each is killed once; then a signal to one stops both in order, having missed nothing."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    command = train(world, run, (2, 2), *LONG)
    killed = kill_one(command, run, victim=1, step=4)
    killed = kill_one(command, run, victim=0, step=killed + 4)
    started = start(*command, **PAIR)
    wait_for_steps(run, killed + 4)
    started[1].send_signal(signal.SIGTERM)
    first, _ = finish(started, 128 + signal.SIGTERM, 128 + signal.SIGTERM)
    assert f"resuming after step {killed}\n" in first[1]
    step = available_steps(run / "checkpoints")[-1]
    assert f"stopped at step {step}; the same command resumes it" in first[1]

    rhythm = (f"TrainConfig.checkpoint_every={step}", "TrainConfig.keep=100")
    started = start(*train(world, whole, (2, 2), *LONG, *rhythm), **PAIR)
    wait_for_steps(whole, step)
    started[0].send_signal(signal.SIGTERM)
    finish(started, 128 + signal.SIGTERM, 128 + signal.SIGTERM)
    expected, found = (restore_params(r / "checkpoints", which=step) for r in (whole, run))
    assert_same_bits(expected, found)
    records = [[r for r in train_records(path) if r["step"] <= step] for path in (run, whole)]
    assert records[0] == records[1]
