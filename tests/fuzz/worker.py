"""One process of a campaign: builds the files, mutates and opens them, and says how it went."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
import traceback
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tests' own worlds
sys.path.insert(0, str(Path(__file__).resolve().parent))

from campaign import keep, processor_seconds
from comparison import first_difference
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from kinds import Kind, make_kinds
from mutations import mutated

from p5jax.core.errors import UserError

ROUND = 40  # inputs of a kind before the next kind's turn


class Opener:
    """Mutates a kind's files, opens them, and writes down the outcomes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.results = folder, folder / "results.jsonl"
        self.current = folder / "current.json"
        self.failures: dict[tuple[str, str], int] = {}

    def round(self, kind: Kind, number: int) -> None:
        """Open a round of inputs; `number` is Hypothesis' seed."""

        @seed(number)
        @settings(
            max_examples=ROUND,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def one(data: st.DataObject) -> None:
            file = data.draw(st.sampled_from(kind.files))
            content = mutated(data.draw, (kind.folder / file).read_bytes(), Path(file).suffix)
            self.one(kind, file, content)

        one()

    def one(self, kind: Kind, file: str, content: bytes) -> None:
        """Open the kind's files with this content in one of them."""
        place = self.folder / "input" / kind.name
        shutil.rmtree(place.parent, ignore_errors=True)
        shutil.copytree(kind.folder, place, copy_function=os.link)
        (place / file).unlink()
        (place / file).write_bytes(content)
        current = {"kind": kind.name, "file": file, "input": str(place / file)}
        now = {
            "since": time.time(),
            "processor_seconds": processor_seconds(os.getpid()),
            "gigabytes": _resident(),
        }
        _write(self.current, json.dumps(current | now))
        outcome, what = opened(kind, place)
        self.current.unlink(missing_ok=True)
        record = {"kind": kind.name, "file": file, "outcome": outcome, "what": what}
        if outcome not in ("accepted", "refused"):
            seen = self.failures[kind.name, what] = self.failures.get((kind.name, what), 0) + 1
            if seen <= 3:
                record["input"] = keep(current, self.folder.parent)
        with self.results.open("a") as out:
            out.write(json.dumps(record) + "\n")


def opened(kind: Kind, place: Path) -> tuple[str, str]:
    """How opening went: "accepted", "refused", or a failure, and what was said or differs."""
    try:
        found = kind.open(place)
    except (UserError, OSError) as error:
        return "refused", str(error)[:200]
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "/p5jax/" in frame.filename]
        at = ours[-1] if ours else frames[-1]
        where = f"{Path(at.filename).name}:{at.name}"
        return "traceback", f"{type(error).__name__} in {where}"
    try:
        expected = kind.reading(place)
    except Exception as error:
        return "different", f"accepted what cannot be read: {type(error).__name__}"
    if expected is None:  # no independent reading: the file's meaning is not plain
        return "accepted", ""
    difference = first_difference(found, expected)
    return ("different", difference) if difference else ("accepted", "")


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def _write(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.rename(path)


def main() -> None:
    """Open inputs of every kind in turn until killed."""
    folder, number, of, start = Path(sys.argv[1]), *map(int, sys.argv[2:])
    kinds = make_kinds(folder.parent / "worlds")
    opener = Opener(folder)
    order = random.Random(start)
    turn = 0
    while True:
        mine = list(kinds)
        order.shuffle(mine)
        for kind in mine:
            opener.round(kind, start * 10_000_000 + turn * of + number)
            turn += 1


if __name__ == "__main__":
    main()
