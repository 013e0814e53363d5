"""What can be measured on its own, and a file that knows what was."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Place:
    """Where a part finds its inputs, keeps what only it needs, and leaves files to take home."""

    data: Path
    work: Path
    out: Path
    tiny: bool = False


@dataclass(frozen=True)
class Cell:
    """A measurement with a name of its own.

    run: is given the time (`time.monotonic`) at which it should be done, and returns figures,
    JSON-able; with "finished" False it goes on next time. seconds: what it takes at least; with
    less left it is not begun.
    """

    name: str
    run: Callable[[float], dict[str, Any]]
    seconds: float = 1.0


def read(path: Path) -> dict[str, Any]:
    """What a part has written, or what it begins with."""
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    return {"complete": False, "cells": {}}


def measured(cells: Iterable[Cell], path: Path, deadline: float, about: dict[str, Any]) -> bool:
    """Run the cells that `path` has no figures of, and say whether it now has those of all.

    The time is shared evenly by those that wait. The file is written anew after each, with `about`
    beside its figures, since the next call may be on another machine. A cell that fails leaves one
    line, "error", and is run again next time; the others go on.
    """
    from p5jax.core.files import replace_text

    report = read(path)
    waiting = [cell for cell in cells if not _done(report["cells"].get(cell.name))]
    left = 0
    for number, cell in enumerate(waiting):
        started = time.monotonic()
        if deadline - started < cell.seconds:
            left += 1
            continue
        share = max(cell.seconds, (deadline - started) / (len(waiting) - number))
        try:
            found = cell.run(started + share)
        except Exception as error:  # one figure less; a traceback for the log
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:500]}
        left += not _done(found)
        found["seconds_in_all"] = round(time.monotonic() - started, 2)
        print(f"{path.stem}: {cell.name}: {json.dumps(found)}", flush=True)
        report["cells"][cell.name] = found | about
        replace_text(path, json.dumps(report, indent=1) + "\n")
    report["complete"] = left == 0
    replace_text(path, json.dumps(report, indent=1) + "\n")
    return left == 0


def _done(found: dict[str, Any] | None) -> bool:
    return found is not None and "error" not in found and found.get("finished", True)
