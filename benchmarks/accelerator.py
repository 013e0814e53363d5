"""All that is worth knowing of p5jax on a GPU or TPU, in ten minutes that may be interrupted.

    python benchmarks/accelerator.py prepare --data DIR [--raw DIR] [--tiny]
    python benchmarks/accelerator.py --data DIR --out DIR [--work DIR] [--minutes 8]
                                     [--parts NAME …] [--tiny]

`prepare` needs no accelerator: it writes what the second command needs beside the checkout, some
10 MB: values computed in float32 on the CPU, and the datasets of Beauty and Toys, made from the
files below `--raw` that gin/results/beauty.gin and toys.gin name. Without `--raw` there is one
synthetic dataset.

The second command measures part after part, each in a process of its own, and writes OUT/NAME.json
after every figure, with the device and the versions. A part is given its share of the minutes that
are left; what does not fit is left for the next call, which goes on where this one stopped: what
has its figures is not measured again. OUT has few files, of 16 MB at most; runs and checkpoints are
in `--work`, by default OUT-work. Where p5jax is not installed but what it needs is, set PYTHONPATH
to the checkout.

    parity       logits, loss, gradient and rankings against `prepare`'s, packed against unpacked
    steps        training steps of p5jax, packed, by size and batch, with the share of the peak
    torch_steps  the same in PyTorch with transformers' T5, padded as P5 pads and by buckets
    rankings     users a second, also of transformers' beam; catalogues of 1 and 10 million items
    recipes      Beauty and Toys trained and evaluated; the weights in bfloat16
    replacement  one trigger token replaced, beside the PyTorch loop of triggers.py

`--tiny` does all of it in about five minutes of a CPU's time, most of them compiling; nothing is
learned of speed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from parts.cells import Place, measured, read

# Each part's share of the time.
PARTS = {
    "parity": 0.8,
    "steps": 1.5,
    "rankings": 2.2,
    "recipes": 3.5,
    "torch_steps": 1.2,
    "replacement": 0.8,
}
_GRACE = 20.0  # seconds that a figure may be late before its part is stopped


def share(name: str, waiting: list[str], seconds: float) -> float:
    """The seconds that a part is given of those that are left to it and to those that wait."""
    return seconds * PARTS[name] / sum(PARTS[each] for each in waiting)


def run(place: Place, names: list[str], seconds: float) -> list[str]:
    """Measure parts within so many seconds; return those that are not done."""
    deadline = time.monotonic() + seconds
    undone = [name for name in names if not read(place.out / f"{name}.json")["complete"]]
    for _ in range(2):  # time that is left at the end is for those that did not fit
        waiting, undone = undone, []
        while waiting:
            name = waiting[0]
            given = share(name, waiting, deadline - time.monotonic())
            waiting = waiting[1:]
            if given < 1.0 or not _child(place, name, given, deadline):
                undone.append(name)
    return undone


def _child(place: Place, name: str, seconds: float, deadline: float) -> bool:
    """Measure a part in a process, which is ended when it is late."""
    arguments = [f"--{key}={getattr(place, key)}" for key in ("data", "work", "out")]
    arguments += ["--tiny"] if place.tiny else []
    command = [sys.executable, __file__, "part", name, f"--seconds={seconds}", *arguments]
    # Parts with PyTorch share the device's memory with it; the next call finds what was compiled.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(place.work / "compiled")}
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **cache, **os.environ}
    print(f"{name}: {seconds:.0f} s", flush=True)
    process = subprocess.Popen(command, env=environment)
    last = max(0.0, deadline - time.monotonic())
    try:
        return process.wait(timeout=min(seconds, last) + _GRACE) == 0
    except subprocess.TimeoutExpired:
        print(f"{name}: late, stopped", flush=True)
        process.kill()
        process.wait()
        return False


def part(place: Place, name: str, seconds: float) -> bool:
    """Measure a part in this process, and say whether all of it is done."""
    deadline = time.monotonic() + seconds
    from hardware import available_cores, describe

    cells = importlib.import_module(f"parts.{name}").cells(place)
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "devices": _devices(),
        "hardware": describe(available_cores()),
        "tiny": place.tiny,
    }
    return measured(cells, place.out / f"{name}.json", deadline, about)


def _devices() -> list[str]:
    import jax

    from p5jax.parallel import runtime

    runtime.set_up()
    return [device.device_kind for device in jax.devices()]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("prepare", "run", "part"):
        command = commands.add_parser(name)
        command.add_argument("--data", type=Path, required=True)
        command.add_argument("--tiny", action="store_true")
        if name == "prepare":
            command.add_argument("--raw", type=Path, help="the folder that has amazon/beauty")
            continue
        if name == "part":
            command.add_argument("name", choices=PARTS)
            command.add_argument("--seconds", type=float, required=True)
        else:
            command.add_argument("--minutes", type=float, default=8.0)
            command.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--work", type=Path)
    given = sys.argv[1:] if arguments is None else arguments
    usual = ["run"] if not given or given[0].startswith("-") else []
    args: Any = parser.parse_args([*usual, *given])
    if args.command == "prepare":
        from parts.inputs import prepare

        prepare(args.data, args.raw, args.tiny)
        return 0
    if not args.data.is_dir():
        parser.error(f"--data {args.data}: found no folder, expected what prepare has written")
    work = args.work or args.out.with_name(f"{args.out.name}-work")
    place = Place(args.data.absolute(), work.absolute(), args.out.absolute(), args.tiny)
    for folder in (place.work, place.out):
        folder.mkdir(parents=True, exist_ok=True)
    if args.command == "part":
        return 0 if part(place, args.name, args.seconds) else 3
    undone = run(place, args.parts, 60 * args.minutes)
    print(f"left: {', '.join(undone)}; the same command goes on" if undone else "all done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
