"""Records of a run: a progress line, metrics.jsonl and TensorBoard event files."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from p5jax.core.documents import read_json_lines
from p5jax.core.errors import UserError, in_words
from p5jax.core.files import replace_text
from p5jax.training.quiet import quiet_background

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class ProgressLine:
    """The state of a run on one line: rewritten in place on a terminal, else printed now and then.

    `every` is the least number of seconds between two lines where the stream is no terminal.
    """

    def __init__(self, total_steps: int, stream: TextIO | None = None, every: float = 10.0) -> None:
        self.total_steps = total_steps
        self.stream = sys.stderr if stream is None else stream
        self.every = every
        self._in_place = self.stream.isatty()
        self._width = 0
        self._printed = -math.inf

    def update(self, step: int, metrics: Mapping[str, float], seconds_left: float) -> None:
        """Show a step's training metrics."""
        now = time.monotonic()
        last = step >= self.total_steps
        if not self._in_place and now - self._printed < self.every and not last:
            return
        self._printed = now
        text = (
            f"step {step}/{self.total_steps}  loss {metrics['train/loss']:.4f}  "
            f"lr {metrics['train/learning_rate']:.2e}  "
            f"{metrics['train/examples_per_second']:.1f} examples/s  "
        )
        if "train/tokens_per_second" in metrics:
            text += f"{_thousands(metrics['train/tokens_per_second'])} tokens/s"
            if "train/positions_per_second" in metrics:
                text += f" ({_thousands(metrics['train/positions_per_second'])} with padding)"
            text += "  "
        if "train/mfu" in metrics:
            text += f"{metrics['train/mfu']:.1%} MFU  "
        text += f"{_duration(seconds_left)} left"
        if self._in_place:
            self.stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def message(self, text: str) -> None:
        """Print a line of its own, for good."""
        if self._in_place and self._width:
            self.stream.write("\r" + " " * self._width + "\r")
            self._width = 0
        self.stream.write(text + "\n")
        self.stream.flush()

    def close(self) -> None:
        """End the line that is being rewritten."""
        if self._in_place and self._width:
            self.stream.write("\n")
            self.stream.flush()
            self._width = 0


class MetricsFile:
    """metrics.jsonl: one JSON object per record, {"step", "time", metric: value, ...}.

    Opening it for a run that resumes after `resumed_step` drops later records, and a last line
    that a killed process left unfinished. A value that is not finite is written as null.
    """

    def __init__(self, path: str | os.PathLike[str], resumed_step: int = 0) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            kept = [r for r in read_metrics(self.path) if r["step"] <= resumed_step]
            replace_text(self.path, "".join(json.dumps(r) + "\n" for r in kept))
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a record and flush it."""
        values = {k: float(v) if math.isfinite(v) else None for k, v in metrics.items()}
        record = {"step": step, "time": round(time.time(), 3), **values}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All complete records of a metrics.jsonl, in order; none where there is no file.

    UserError naming the line that is no record. A last one that a kill cut off is none.
    """
    records = read_json_lines(path, dict[str, float | None], "a record of metrics")
    for number, record in enumerate(records, 1):
        if type(record.get("step")) is not int:
            raise UserError(f"{path}:{number}: found no step, expected a record of metrics")
    return records


class TensorBoard:
    """TensorBoard event files of scalars, written without TensorFlow.

    On resuming, TensorBoard is told to forget what came after `resumed_step`.
    """

    def __init__(self, folder: str | os.PathLike[str], resumed_step: int = 0) -> None:
        # TensorBoard writes files through TensorFlow when that is installed; this empty module
        # is its own switch for its built-in file layer, so that TensorFlow is never loaded.
        name = "tensorboard.compat.notf"
        sys.modules.setdefault(name, types.ModuleType(name))
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary import Writer
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        # Every session but a run's first makes TensorBoard drop what it has from this step on.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        events = EventFileWriter(str(folder))
        events.add_event(event_pb2.Event(step=resumed_step + 1, session_log=start))
        events.close()
        quiet_background()
        self.path = Path(folder)
        self._writer = Writer(str(folder))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one point per metric and flush."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class RunWriters:
    """All records of a run folder; in a process that is not `primary`, nothing is written."""

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        total_steps: int,
        *,
        resumed_step: int = 0,
        primary: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        self._progress: ProgressLine | None = None
        self._files: list[MetricsFile | TensorBoard] = []
        if primary:
            run_dir = Path(run_dir)
            self._progress = ProgressLine(total_steps, stream)
            self._files = [
                MetricsFile(run_dir / METRICS_FILE, resumed_step),
                TensorBoard(run_dir / TENSORBOARD_FOLDER, resumed_step),
            ]

    def __enter__(self) -> RunWriters:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress:
            self._progress.close()
        for file in self._files:
            with contextlib.suppress(*((OSError,) if error else ())):  # the first error says more
                file.close()

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write a record to the files."""
        for file in self._files:
            try:
                file.write(step, metrics)
            except OSError as error:
                raise UserError(f"{file.path}: could not be written ({in_words(error)})") from error

    def progress(self, step: int, metrics: Mapping[str, float], seconds_left: float) -> None:
        """Show a training record on the progress line."""
        if self._progress:
            self._progress.update(step, metrics, seconds_left)

    def message(self, text: str) -> None:
        """Show a line of its own."""
        if self._progress:
            self._progress.message(text)


def _thousands(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
