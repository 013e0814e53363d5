"""Trigger search where one word is known to matter, and through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from planted_world import planted_run

from p5jax.cli.main import main
from p5jax.core.errors import Interrupted
from p5jax.training.checkpoints import Checkpoints
from p5jax.triggers.layout import Layout
from p5jax.triggers.problem import Problem
from p5jax.triggers.prompt import triggered
from p5jax.triggers.rounds import Rounds
from p5jax.triggers.searching import search
from p5jax.triggers.settings import SearchConfig

SEEDS = 10
pytestmark = pytest.mark.check


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The run, with its parameters on disk too, and the planted token."""
    run, word = planted_run(tmp_path_factory.mktemp("planted"))
    with Checkpoints(run.path / "checkpoints") as checkpoints:
        checkpoints.save(1, {"target": run.params, "state": {"step": np.int32(1)}}, {})
    return run, word


def config(seed, **changes):
    settings = {"epochs": 12, "patience": 6, "gradient_examples": 64, "seed": seed}
    return SearchConfig("sequential", Layout(3), **(settings | changes))


def test_the_planted_word_matters(planted):
    run, word = planted
    problem = Problem(run, config(0))
    prompt = problem.initial_prompt()
    assert word not in prompt.task
    task = prompt.task.copy()
    task[1] = word
    found = problem.values(replace(prompt, task=task))
    assert found.mean() > problem.values(prompt).mean() + 0.3


@pytest.mark.parametrize("racing", [0.0, 0.1])
def test_search_finds_the_planted_word_from_random_starts(planted, racing):
    run, word = planted
    found = 0
    for seed in range(SEEDS):
        rounds = Rounds(run, config(seed, racing_level=racing))
        assert word not in rounds.state.prompt.task
        while not rounds.finished:
            rounds.advance()
        found += word in rounds.state.prompt.task
    assert found >= 9


def test_commands_search_evaluate_and_use_a_prompt(planted, tmp_path, capsys):
    run, word = planted
    folders = [str(tmp_path / f"seed-{seed}") for seed in range(2)]
    base = ["triggers", "search", str(run.path), "--family", "sequential", "--task-tokens", "3"]
    base += ["--gradient-examples", "64", "--epochs", "8"]
    for seed, folder in enumerate(folders):
        assert main([*base, "--out", folder, "--seed", str(seed)]) == 0
        assert (
            word
            in json.loads((tmp_path / f"seed-{seed}" / "triggers.json").read_text())["task_tokens"]
        )
    capsys.readouterr()
    assert main(["triggers", "evaluate", str(run.path), *folders]) == 0
    table = capsys.readouterr().out
    assert "seen manual (2-3)" in table
    assert "seed-0, seed-1" in table
    assert "over seeds" in table
    assert "non-personalised" in table
    assert "popularity" in table
    assert main(["triggers", "evaluate", str(run.path), folders[0], folders[0]]) == 2
    assert "found one twice" in capsys.readouterr().err
    assert main(["report", str(run.path), "--triggers", *folders]) == 0
    page = Path(capsys.readouterr().out.strip()).read_text()
    assert page.count("Accepted changes") == 2
    assert run.vocabulary.decode([word]) in page
    shortest = int(np.diff(run.dataset.offsets).argmin())  # as long as in training
    user = run.dataset.user_keys[shortest]
    assert main(["recommend", str(run.path), "--user", user, "-k", "1", "--triggers", folders[0],
                 "--json", "--no-exclude-history"]) == 0  # fmt: skip
    item = json.loads(capsys.readouterr().out)["items"][0]["item"]
    last = int(run.dataset.sequence(shortest)[-1])
    assert item == f"I{(last + 1) % run.dataset.num_items}"
    assert main(["evaluate", str(run.path), "--triggers", folders[0]]) == 0
    assert "prompt triggers" in capsys.readouterr().out
    wrong = ["explain", str(run.path), "--user", user, "--item", "I1", "--triggers", folders[0]]
    assert main(wrong) == 2
    assert "error: " in capsys.readouterr().err
    assert main(["generate", str(run.path), "--text", "x", "--triggers", str(tmp_path)]) == 2
    assert "no triggers.json" in capsys.readouterr().err


def test_a_signal_stops_after_a_round_and_the_same_call_resumes(planted, tmp_path):
    """The whole of two searches, one of them stopped twice, ends with the same tokens."""
    run, _ = planted
    settings = config(4, epochs=4)
    for stop in (3, 5):

        def stopping(line, start=f"round {stop} "):
            if line.startswith(start):
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(Interrupted, match=f"after round {stop}") as stopped:
            search(run, settings, tmp_path / "stopped", stopping)
        assert stopped.value.signal == signal.SIGTERM
    search(run, settings, tmp_path / "stopped", lambda line: None)
    search(run, settings, tmp_path / "whole", lambda line: None)
    tokens = [triggered(run, tmp_path / name).prompt.task for name in ("stopped", "whole")]
    np.testing.assert_array_equal(*tokens)


@pytest.mark.parametrize("model_parallel", [1, 2])
def test_eight_devices_find_the_same_as_one(planted, tmp_path, model_parallel):
    run, _ = planted
    words = ["triggers", "search", str(run.path), "--family", "sequential", "--task-tokens", "2"]
    words += ["--user-tokens", "1", "--epochs", "4", "--gradient-examples", "64", "--seed", "3"]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    program = [sys.executable, "-m", "p5jax.cli.main", *words, "--out", str(tmp_path / "eight")]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    subprocess.run([*program, "--model-parallel", str(model_parallel)], env=environment, check=True)

    def found(name):
        manifest = json.loads((tmp_path / name / "triggers.json").read_text())
        table = pq.read_table(tmp_path / name / manifest["users"]).to_pylist()
        return manifest["task_tokens"], table, manifest["round"]

    assert found("eight") == found("one")
    assert found("one")[1]  # some users have tokens of their own
