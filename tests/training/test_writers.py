from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from p5jax.training.writers import (
    MetricsFile,
    ProgressLine,
    RunWriters,
    TensorBoard,
    read_metrics,
)

ROOT = Path(__file__).parents[2]
RECORD = {
    "train/loss": 2.25,
    "train/learning_rate": 0.001,
    "train/examples_per_second": 12.5,
    "train/tokens_per_second": 3400.0,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_line_is_rewritten_on_a_terminal():
    stream = Terminal()
    line = ProgressLine(100, stream)
    line.update(5, RECORD, 3725)
    line.update(6, RECORD, 59.6)
    line.message("saved")
    line.update(7, RECORD, float("inf"))
    line.close()
    text = "loss 2.2500  lr 1.00e-03  12.5 examples/s  3.4k tokens/s"
    shown = stream.getvalue()
    assert shown.startswith(f"\rstep 5/100  {text}  1h02m left\rstep 6/100  {text}  1m00s left")
    assert shown.endswith(f"\rsaved\n\rstep 7/100  {text}  ? left\n")


def test_progress_line_is_rare_in_a_file():
    stream = io.StringIO()
    line = ProgressLine(100, stream, every=1000)
    for step in range(1, 101):
        line.update(step, RECORD, 1)
    line.close()
    assert [s.split()[1] for s in stream.getvalue().splitlines()] == ["1/100", "100/100"]


def test_metrics_file_appends_and_drops_what_came_after(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    file = MetricsFile(path)
    for step in (10, 20, 30):
        file.write(step, {"train/loss": 1 / step, "bad": float("nan")})
    file.close()
    with path.open("a") as raw:
        raw.write('{"step": 20, "tr')  # a kill in mid-line
    file = MetricsFile(path, resumed_step=20)
    file.write(21, {"train/loss": 0.5})
    file.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["step"] for r in records] == [10, 20, 21]
    assert records == read_metrics(path)
    assert records[0]["train/loss"] == 0.1
    assert records[0]["bad"] is None
    assert [p.name for p in path.parent.iterdir()] == ["metrics.jsonl"]


def _scalars(folder: Path):
    module = pytest.importorskip("tensorboard.backend.event_processing.plugin_event_accumulator")
    accumulator = module.EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        tag: [(e.step, e.tensor_proto.float_val[0]) for e in accumulator.Tensors(tag)]
        for tag in accumulator.Tags()["tensors"]
    }


def test_tensorboard_reads_what_was_written(tmp_path):
    board = TensorBoard(tmp_path)
    for step in (10, 20, 30):
        board.write(step, {"train/loss": step / 10})
    board.close()
    assert _scalars(tmp_path) == {"train/loss": [(10, 1.0), (20, 2.0), (30, 3.0)]}
    time.sleep(1.01 - time.time() % 1)  # files are read in the order of the seconds in their names
    board = TensorBoard(tmp_path, resumed_step=20)
    board.write(25, {"train/loss": 2.5})
    board.close()
    assert _scalars(tmp_path) == {"train/loss": [(10, 1.0), (20, 2.0), (25, 2.5)]}


def test_only_the_primary_process_writes(tmp_path):
    with RunWriters(tmp_path / "other", 10, primary=False) as writers:
        writers.record(1, RECORD)
        writers.progress(1, RECORD, 1)
        writers.message("text")
    assert not (tmp_path / "other").exists()
    with RunWriters(tmp_path / "first", 10, stream=io.StringIO()) as writers:
        writers.record(1, RECORD)
    assert sorted(p.name for p in (tmp_path / "first").iterdir()) == [
        "metrics.jsonl",
        "tensorboard",
    ]


def test_tensorflow_is_not_imported_even_where_it_is_installed(tmp_path):
    """A stand-in `tensorflow` on the path would be imported by TensorBoard's own fallback."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise SystemExit('imported tensorflow')")
    code = f"""
import sys
import time
from p5jax.training.writers import TensorBoard
board = TensorBoard({str(tmp_path / "events")!r}, resumed_step=3)
board.write(4, {{"a": 1.0}})
board.close()
assert "tensorflow" not in sys.modules
"""
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
