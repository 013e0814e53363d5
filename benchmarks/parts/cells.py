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
    JSON-able. seconds: what it takes at least; with less left it is not begun.
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

    The file is written anew after each. A cell that fails leaves one line, "error", and is run
    again next time; the others go on.
    """
    from p5jax.core.files import replace_text

    report = read(path) | about
    left = 0
    for cell in cells:
        kept = report["cells"].get(cell.name)
        if kept and "error" not in kept:
            continue
        if deadline - time.monotonic() < cell.seconds:
            left += 1
            continue
        started = time.monotonic()
        try:
            found = cell.run(deadline)
        except Exception as error:  # one figure less; a traceback for the log
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:500]}
            left += 1
        found["seconds_in_all"] = round(time.monotonic() - started, 2)
        print(f"{path.stem}: {cell.name}: {json.dumps(found)}", flush=True)
        report["cells"][cell.name] = found
        replace_text(path, json.dumps(report, indent=1) + "\n")
    report["complete"] = left == 0
    replace_text(path, json.dumps(report, indent=1) + "\n")
    return left == 0
