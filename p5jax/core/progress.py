"""How far a long job is: a line at intervals with the rate and the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from p5jax.core.printing import plain

Report = Callable[[str], None]

_SECONDS_BETWEEN_LINES = 10.0


def print_progress(line: str) -> None:
    """Write a line of progress to the standard error stream."""
    print(plain(line), file=sys.stderr, flush=True)


class Progress:
    """Counts what is done and reports at intervals and at the end; `unit` is a plural noun."""

    def __init__(self, label: str, unit: str, total: int, report: Report, done: int = 0):
        self.label, self.unit, self.total, self.report = label, unit, total, report
        self.done, self.before, self.started = done, done, time.monotonic()
        self.reported = self.started

    def add(self, count: int) -> None:
        """Note that `count` more are done."""
        self.done += count
        now = time.monotonic()
        finished = self.done >= self.total
        if not finished and now - self.reported < _SECONDS_BETWEEN_LINES:
            return
        self.reported = now
        rate = (self.done - self.before) / max(now - self.started, 1e-9)
        left = "" if finished else f", {(self.total - self.done) / rate:.0f} s left"
        line = f"{self.label}: {self.done}/{self.total} {self.unit}, {rate:.1f}/s{left}"
        self.report(line)
