"""The benchmark of accelerators: what is done is not done again, and all of it runs on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    """Importable as scripts in that folder import each other; afterwards none of it stays."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(BENCHMARKS)
    import accelerator
    from parts import cells

    yield accelerator, cells
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("accelerator", "parts"):
            del sys.modules[name]


def test_what_has_its_figures_is_not_measured_again(benchmarks, tmp_path, capsys):
    _, cells = benchmarks
    ran, file, broken = [], tmp_path / "part.json", True

    def cell(name, seconds=0.0):
        def run(deadline):
            ran.append(name)
            if name == "b" and broken:
                raise ValueError("out of luck\nsecond line")
            return {"value": len(ran)}

        return cells.Cell(name, run, seconds)

    def measured(seconds):
        three = [cell("a"), cell("b"), cell("c", seconds=30)]
        return cells.measured(three, file, time.monotonic() + seconds, {"devices": ["toy"]})

    assert not cells.read(file)["complete"]
    assert not measured(10)  # b fails, c is not begun
    report = json.loads(file.read_text())
    assert report["cells"]["b"]["error"] == "ValueError: out of luck"
    assert set(report["cells"]) == {"a", "b"}
    assert not report["complete"]
    broken = False
    assert measured(100)
    assert ran == ["a", "b", "b", "c"]
    report = json.loads(file.read_text())
    assert report["complete"]
    assert report["cells"]["a"].items() >= {"value": 1, "devices": ["toy"]}.items()
    assert measured(100)
    assert ran == ["a", "b", "b", "c"]


def test_what_is_not_finished_goes_on_and_time_is_shared(benchmarks, tmp_path):
    _, cells = benchmarks
    given, file = {}, tmp_path / "part.json"

    def cell(name, finished=True, least=0.0):
        def run(deadline):
            given[name] = deadline - time.monotonic()
            return {"finished": finished}

        return cells.Cell(name, run, least)

    three = [cell("a", finished=False), cell("b"), cell("c", least=50)]
    assert not cells.measured(three, file, time.monotonic() + 60, {})
    assert given == pytest.approx({"a": 20, "b": 30, "c": 60}, abs=1)
    given.clear()
    assert cells.measured([cell("a"), *three[1:]], file, time.monotonic() + 60, {})
    assert given == pytest.approx({"a": 60}, abs=1)


def test_time_that_a_part_leaves_goes_to_those_that_wait(benchmarks):
    accelerator, _ = benchmarks
    names = list(accelerator.PARTS)
    assert sum(accelerator.share(name, names, 100.0) for name in names) == pytest.approx(100)
    assert accelerator.share(names[-1], names[-1:], 30.0) == 30.0


def test_finished_parts_start_no_process(benchmarks, tmp_path, monkeypatch):
    accelerator, cells = benchmarks
    place = cells.Place(tmp_path, tmp_path, tmp_path)
    for name in accelerator.PARTS:
        (tmp_path / f"{name}.json").write_text('{"complete": true, "cells": {}}')
    monkeypatch.setattr(subprocess, "Popen", None)  # a call would fail
    assert accelerator.run(place, list(accelerator.PARTS), 60.0) == []


def test_ids_are_distinct_and_as_many_as_asked(benchmarks):
    import catalogue

    ids = catalogue.synthetic_ids(300, codes=5)
    assert ids.shape == (300, 5)
    assert len(set(map(tuple, ids.tolist()))) == 300
    assert (ids[:, -1] == 1).all()
    for place, column in enumerate(ids[:, :-1].T):  # every place has tokens of its own
        assert 3 + 5 * place <= column.min() <= column.max() < 3 + 5 * (place + 1)


def test_every_way_of_batching_holds_the_same_tokens(benchmarks):
    import argparse

    import training

    options = argparse.Namespace(window=2, batch_size=8, size="tiny", lengths="p5", batches=2)
    plans, real = training.make_plans(options)
    sides = ("encoder_input_tokens", "decoder_target_tokens")
    for parts, positions in plans.values():
        held = [(b[side], weight) for b, weight in parts for side in sides]
        assert positions == sum(tokens.size * weight for tokens, weight in held)
    longest, _ = plans[training.EQUAL]
    assert real == sum((batch[side] > 0).sum() for batch, _ in longest for side in sides)


@pytest.mark.check
def test_all_parts_run_on_a_cpu_and_the_second_call_does_nothing(tmp_path):
    script = str(BENCHMARKS / "accelerator.py")
    data, out = tmp_path / "data", tmp_path / "out"
    made = [sys.executable, script, "prepare", "--data", str(data), "--tiny"]
    subprocess.run(made, check=True)

    def run(minutes):
        command = [sys.executable, script, "--data", str(data), "--out", str(out), "--tiny"]
        arguments = {"capture_output": True, "text": True, "check": False}
        return subprocess.run([*command, "--minutes", str(minutes)], **arguments)

    done = run(30)
    assert done.stdout.splitlines()[-1] == "all done", done.stdout + done.stderr
    parity = json.loads((out / "parity.json").read_text())["cells"]
    values, lists = parity["float32, values"], parity["float32, rankings"]
    assert max(values["logits"], values["loss"], values["gradient"]) < 1e-5
    assert lists["rankings guaranteed by exact"] == lists["equal to the reference's"] == 16
    assert lists["certified, items of exact"] == lists["certified"] >= 8
    packing = parity["packed and unpacked"]
    assert packing["packed"] == pytest.approx(packing["unpacked"], rel=1e-5)
    files = [file.name for file in out.iterdir()]
    assert len(files) <= 8
    assert "beauty-0.safetensors.part" in files
    assert run(1).stdout == "all done\n"
