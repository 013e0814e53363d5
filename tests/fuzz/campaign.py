"""Fuzzing of every kind of file: thousands of damaged inputs, each accepted rightly or refused.

    python tests/fuzz/campaign.py --minutes 10 --seed 0 --out build/fuzz

Each input is opened as a command opens it. Right is one line that says what is wrong, or a result
that equals an independent reading. A failure is a traceback, more than 10 s of a processor or 60 s
by the clock, more than 2 GB, or a result that differs. Failing inputs are kept below --out. Exit
status 1 when there are any, 130 after Ctrl-C, with what was found until then.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

# Where other work shares the cores, the clock says little of an input.
SECONDS, CLOCK_SECONDS, GIGABYTES = 10.0, 60.0, 2.0
WORKER = Path(__file__).with_name("worker.py")
KEPT = 3  # inputs of each distinct failure


class Worker:
    """One process that opens inputs, watched for its time and its memory."""

    def __init__(self, out: Path, number: int, of: int, seed: int) -> None:
        self.folder, self.number, self.of, self.seed = out / f"worker-{number}", number, of, seed
        self.folder.mkdir(parents=True, exist_ok=True)
        self.starts = 0
        self.start()

    def start(self) -> None:
        """Start the process, after a kill at other inputs than before."""
        (self.folder / "current.json").unlink(missing_ok=True)
        words = [self.folder, self.number, self.of, self.seed + 1000 * self.starts]
        self.starts += 1
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), *map(str, words)],
            stdout=(self.folder / "log.txt").open("ab"),
            stderr=subprocess.STDOUT,
        )

    def watch(self) -> None:
        """Kill the process where an input takes too long or too much, and start it again."""
        try:
            current = json.loads((self.folder / "current.json").read_text())
        except (OSError, ValueError):
            current = None
        if self.process.poll() is not None:
            if current is not None:
                self._failed(current, "ended", f"exit status {self.process.returncode}")
            else:  # between two inputs: the fuzzer's own mistake, which ends a round
                what = f"exit status {self.process.returncode}, see log.txt"
                self._record({"kind": "fuzzer", "outcome": "ended", "what": what})
            self.start()
        elif current is not None:
            memory = _gigabytes(self.process.pid) - current["gigabytes"]
            spent = processor_seconds(self.process.pid) - current["processor_seconds"]
            if spent > SECONDS or time.time() - current["since"] > CLOCK_SECONDS:
                self._failed(current, "hang", f"{spent:.0f} s of a processor")
                self.stop()
                self.start()
            elif memory > GIGABYTES:
                self._failed(current, "memory", f"more than {GIGABYTES:.0f} GB")
                self.stop()
                self.start()

    def _failed(self, current: dict, kind: str, what: str) -> None:
        record = {"kind": current["kind"], "outcome": kind, "what": what, "file": current["file"]}
        self._record(record | {"input": keep(current, self.folder.parent)})

    def _record(self, record: dict) -> None:
        with (self.folder / "results.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def stop(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()


def keep(current: dict, out: Path) -> str:
    """Copy the input that is being opened to where failing ones are kept."""
    kept = out / "failures" / f"{current['kind']}-{time.time_ns()}"
    kept.mkdir(parents=True, exist_ok=True)
    source = Path(current["input"])
    if source.is_file():
        shutil.copy(source, kept / source.name)
    return str(kept)


def processor_seconds(pid: int) -> float:
    """The processor time that a process has had, 0 where that cannot be known."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def _gigabytes(pid: int) -> float:
    try:
        return (
            int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            * os.sysconf("SC_PAGE_SIZE")
            / 1e9
        )
    except (OSError, IndexError):
        return 0.0


def results(out: Path) -> list[dict]:
    """All outcomes until now."""
    lines = [
        line
        for file in sorted(out.glob("worker-*/results.jsonl"))
        for line in file.read_text().splitlines()
    ]
    return [json.loads(line) for line in lines if line.endswith("}")]


def summary(found: list[dict], seconds: float) -> str:
    """A line per kind of file, then each distinct failure with its count and an input."""
    by_kind: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for record in found:
        outcome = record["outcome"]
        by_kind[record["kind"]][outcome if outcome in ("accepted", "refused") else "failed"] += 1
    lines = [f"{'':<20}{'inputs':>8}{'refused':>9}{'accepted':>9}{'failed':>8}"]
    for kind, counts in sorted(by_kind.items()):
        cells = f"{counts['refused']:>9,}{counts['accepted']:>9,}{counts['failed']:>8,}"
        lines.append(f"{kind:<20}{counts.total():>8,}{cells}")
    lines.append(f"{len(found):,} inputs of {len(by_kind)} kinds in {seconds:.0f} s")
    failures = collections.defaultdict(list)
    for record in found:
        if record["outcome"] not in ("accepted", "refused"):
            failures[record["kind"], record["outcome"], record["what"]].append(record)
    for (kind, outcome, what), members in sorted(failures.items()):
        lines.append(f"{len(members):>5} x {kind}: {outcome}: {what} ({members[0].get('input')})")
    return "\n".join(lines)


def make_worlds(folder: Path) -> None:
    """Write a sound file of every kind below `folder`, in a process of its own."""
    print("making a file of every kind …", flush=True)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    words = [sys.executable, str(WORKER.with_name("worlds.py")), str(folder)]
    with folder.with_suffix(".log").open("w") as log:
        subprocess.run(words, check=True, env=environment, stdout=log, stderr=log)


def campaign(out: Path, *, seconds: float, inputs: int, workers: int, seed: int) -> list[dict]:
    """Run workers until the time is over or there are enough inputs; return all outcomes."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    make_worlds(out / "worlds")
    team = [Worker(out, number, workers, seed) for number in range(workers)]
    begun = shown = time.time()
    try:
        while time.time() - begun < seconds:
            time.sleep(0.2)
            for worker in team:
                worker.watch()
            if time.time() - shown > 10:
                shown, count = time.time(), len(results(out))
                spent = shown - begun
                print(
                    f"{count:,} inputs, {count / spent:.1f}/s, {seconds - spent:.0f} s left",
                    flush=True,
                )
                if count >= inputs:
                    break
    finally:
        for worker in team:
            worker.stop()
    return results(out)


def main() -> int:
    """Run a campaign and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--inputs", type=int, default=10**9, help="stop after so many")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun, status = time.time(), 0
    try:
        campaign(
            given.out,
            seconds=60 * given.minutes,
            inputs=given.inputs,
            workers=given.workers,
            seed=given.seed,
        )
    except KeyboardInterrupt:
        status = 130
    found = results(given.out)
    print(summary(found, time.time() - begun))
    failed = any(record["outcome"] not in ("accepted", "refused") for record in found)
    return status or int(failed)


if __name__ == "__main__":
    sys.exit(main())
