"""Results are merged with earlier ones and with those of an evaluation beside it, or refused."""

from __future__ import annotations

import dataclasses
import json
import os
import threading

import numpy as np
import pyarrow as pa
import pytest

from p5jax.core import lock
from p5jax.core.errors import UserError
from p5jax.evaluation import keeping
from p5jax.evaluation.keeping import keep_results, reserve
from p5jax.evaluation.results import FamilyResult, load_results

HEADER = {"params": "x"}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "evaluation" / "test"


def result(prompt: str) -> FamilyResult:
    numbers = pa.array(np.arange(3, dtype=np.int32))
    columns = {"user": numbers, "item": numbers, "HR@1": pa.array([0.0, 1.0, 1.0])}
    schema = pa.schema([pa.field(n, c.type, nullable=n == "HR@1") for n, c in columns.items()])
    metrics = {"HR@1": (2 / 3, 0.2, 0.9)}
    table = pa.table(columns, schema)
    return FamilyResult("sequential", prompt, True, 3, metrics, table, [], "catalogue")


def kept(folder) -> list[str]:
    return [each.prompt_id for each in load_results(folder)]


def other_process_holds(folder) -> None:
    """Leave the lock of a living process, the parent of this one."""
    pid = os.getppid()
    holder = dataclasses.replace(lock.Holder.of(folder), pid=pid, started=lock._started(pid))
    (folder / ".lock").write_text(json.dumps(dataclasses.asdict(holder)))


def test_two_evaluations_at_the_same_time_are_merged(folder):
    """Nothing is locked between the reservation and the writing, and the writing waits."""
    reserve(folder, HEADER)
    assert list(folder.parent.iterdir()) == []
    keep_results(folder, [result("2-3")], HEADER)  # the other one's
    other_process_holds(folder.parent)
    threading.Timer(0.2, (folder.parent / ".lock").unlink).start()
    keep_results(folder, [result("2-13")], HEADER)
    assert kept(folder) == ["2-13", "2-3"]
    assert list(folder.parent.iterdir()) == [folder]


def test_an_evaluation_that_does_not_end_is_named(folder, monkeypatch):
    monkeypatch.setattr(keeping, "_WAIT", 0.0)
    reserve(folder, HEADER)
    other_process_holds(folder.parent)
    with pytest.raises(UserError, match=rf"{folder}: process {os.getppid()} on .* works on it"):
        keep_results(folder, [result("2-3")], HEADER)


def test_earlier_results_that_cannot_be_read_are_refused_before_the_work(folder):
    keep_results(folder, [result("2-3")], HEADER)
    file = folder / "sequential_2-3.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-9])
    with pytest.raises(UserError, match=rf"2-3.parquet: .*; delete {folder} to evaluate without"):
        reserve(folder, HEADER)
    reserve(folder, {"params": "y"})  # these are not merged
    file.write_bytes(content)
    reserve(folder, HEADER)
    (folder / "summary.json").write_text("{")
    with pytest.raises(UserError, match=rf"summary.json: .*; delete {folder} to evaluate without"):
        reserve(folder, HEADER)
    assert [each.name for each in folder.parent.iterdir()] == ["test"]


def test_figures_that_an_earlier_version_computed_are_not_kept_beside_new_ones(folder):
    """Until then the intervals of rates were normal ones."""
    keep_results(folder, [result("2-3")], HEADER)
    document = json.loads((folder / "summary.json").read_text())
    del document["figures"]
    (folder / "summary.json").write_text(json.dumps(document))
    assert kept(folder) == ["2-3"]  # they can be read
    keep_results(folder, [result("2-13")], HEADER)
    assert kept(folder) == ["2-13"]


def test_what_a_killed_process_moved_aside_is_merged_too(folder):
    keep_results(folder, [result("2-3")], HEADER)
    folder.rename(folder.parent / ".test.old")
    keep_results(folder, [result("2-13")], HEADER)
    assert kept(folder) == ["2-13", "2-3"]
