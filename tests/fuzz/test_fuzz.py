"""A minute of fuzzing, every command with wrong words, and the fuzzer itself."""

from __future__ import annotations

import collections
import io

import campaign
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_lines import command_lines, outcome
from comparison import first_difference
from hypothesis import given, settings
from hypothesis import strategies as st
from kind import Kind
from mutations import mutated
from worker import opened

from p5jax.core.errors import UserError

SEED = 0
EVERY = 3  # of the command lines: the others are as they are, and all take minutes
FILES = {
    ".json": b'{"a": [1, {"b": "text"}], "c": null}',
    ".jsonl": b'{"a": 1}\n{"a": 2}\n',
    ".inter": b"user_id:token\titem_id:token\nu1\ti1\n",
    ".py": b"a = 1\n",
    "": b"\x00\x01binary",
}


@pytest.mark.check
def test_a_minute_of_damaged_files(tmp_path):
    # A minute on two idle cores, and the same work where others share them.
    found = campaign.campaign(tmp_path, seconds=600, inputs=1500, workers=2, seed=SEED)
    assert len(found) >= 1500
    assert len({record["kind"] for record in found}) >= 18
    failed = [record for record in found if record["outcome"] not in ("accepted", "refused")]
    assert not failed, campaign.summary(found, 600)


@pytest.mark.check
def test_wrong_command_lines_are_one_line(worlds, tmp_path):
    count, wrong = 0, collections.defaultdict(list)
    for words in list(command_lines(worlds))[::EVERY]:
        count += 1
        problem = outcome(words, tmp_path / f"{count}" / "here" / "inside")
        if problem:
            wrong[problem].append(" ".join(words).replace(str(worlds), "WORLDS"))
    assert count >= 1000
    shown = [f"{len(lines)} x {problem}: p5jax {lines[0]}" for problem, lines in wrong.items()]
    assert not wrong, "\n".join([f"of {count} command lines:", *shown])


def one_kind(tmp_path, open, reading=lambda folder: None):
    return Kind("a kind", tmp_path, (), open, reading)


def test_every_wrong_end_of_opening_is_noticed(tmp_path):
    def raises(error):
        def open(folder):
            raise error

        return one_kind(tmp_path, open)

    assert opened(raises(UserError("x: found 1")), tmp_path) == ("refused", "x: found 1")
    assert opened(raises(OSError(2, "No such file")), tmp_path)[0] == "refused"
    outcome, what = opened(raises(ZeroDivisionError("by zero")), tmp_path)
    assert (outcome, what[:17]) == ("traceback", "ZeroDivisionError")

    def broken(folder):
        raise ValueError

    def kind(found, reading):
        return one_kind(tmp_path, lambda folder: found, reading)

    assert opened(kind([1.0], lambda folder: [1.0]), tmp_path) == ("accepted", "")
    assert opened(kind([1.0], lambda folder: None), tmp_path) == ("accepted", "")
    assert opened(kind([1.0], lambda folder: [2.0]), tmp_path)[0] == "different"
    assert opened(kind([1.0], broken), tmp_path)[0] == "different"


def test_differences_are_found_at_any_depth():
    one = {"a": [1, np.array([1.0, np.nan])], "b": float("nan"), "c": ("x", None)}
    assert first_difference(one, one) == ""
    for path, other in (
        ("result.a[1]", {**one, "a": [1, np.array([1.0, 2.0])]}),
        ("result.a[1]", {**one, "a": [1, np.array([1.0])]}),
        ("result.b", {**one, "b": 1.0}),
        ("result.c", {**one, "c": ("x",)}),
        ("result.c[1]", {**one, "c": ("x", 0)}),
        ("result", {"a": 1}),
    ):
        assert first_difference(one, other).startswith(path)


@pytest.mark.parametrize("columns", [[[]], [[1, 2], ["a", "b"]], []])
def test_tables_are_mutated_whatever_their_shape(columns):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([*map(pa.array, columns)], ["a"] * len(columns)), buffer)

    @settings(max_examples=60, deadline=None, database=None, derandomize=True)
    @given(st.data())
    def mutate(data):
        assert isinstance(mutated(data.draw, buffer.getvalue(), ".parquet"), bytes)

    mutate()


def test_a_fuzzer_that_ends_between_inputs_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "WORKER", tmp_path / "worker.py")
    campaign.WORKER.write_text("raise SystemExit(3)")
    worker = campaign.Worker(tmp_path, 0, 1, SEED)
    worker.process.wait()
    worker.watch()
    worker.stop()
    (found,) = campaign.results(tmp_path)
    assert (found["kind"], found["outcome"]) == ("fuzzer", "ended")


@pytest.mark.parametrize("suffix", FILES)
def test_mutations_change_a_file_in_many_ways(suffix):
    seen = set()

    @settings(max_examples=60, deadline=None, database=None)
    @given(st.data())
    def collect(data):
        seen.add(mutated(data.draw, FILES[suffix], suffix))

    collect()
    assert len(seen - {FILES[suffix]}) > 30


def test_summaries_count_and_name_each_failure_once():
    def record(outcome, what=""):
        return {"kind": "gin", "outcome": outcome, "what": what, "input": "here"}

    found = [record("accepted"), record("refused"), record("hang", "10 s"), record("hang", "10 s")]
    text = campaign.summary(found, 3.0)
    assert text.splitlines()[1].split() == ["gin", "4", "1", "1", "2"]
    assert text.splitlines()[-1].split() == ["2", "x", "gin:", "hang:", "10", "s", "(here)"]
