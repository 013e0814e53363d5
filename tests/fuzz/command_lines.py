"""Command lines with wrong, missing, doubled, empty and hostile values, of every command."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from p5jax.cli.main import COMMANDS, main
from p5jax.core.errors import UserError

SECONDS = 60
VALUES = (
    *("", " ", "-1", "0", "1", "nan", "1e999", "9" * 30, "0.5", "x", "ü", "a,b", ",", "-x", "%s"),
    *("nowhere/at/all", "..", "{iid}", "u1,u2", "\x1b[31mred", "'", "None", "True", "[1", "--json"),
)
GIN = (
    *(
        "--gin.STEPS",
        "--gin.=1",
        "--gin.STEPS=",
        "--gin.STEPZ=1",
        "--gin.STEPS=-1",
        "--gin.STEPS=x",
    ),
    *("--gin.STEPS=1.5", "--gin.STEPS=[1", "--gin.SEED=-1", "--gin.T5Config.emb_dim=0"),
    *("--gin.T5Config.no_such=1", "--gin.NoClass.x=1", "--gin.STEPS=%NOTHING", "--gin.a/b.c=1"),
    *("--gin.TrainConfig.steps=@nothing", "--gin_file=", "--gin_file=nowhere.gin", "--gin_file=.."),
    *("--gin.OptimizerConfig.learning_rate=nan", "--gin.STEPS='3", "--gin.import=os"),
)


def command_lines(worlds: Path) -> Iterator[list[str]]:
    """Every command's sound words with one thing wrong at a time."""
    for name, command in COMMANDS.items():
        base = _sound(worlds).get(name)
        if base is None:
            continue
        words = [*name.split(), *base]
        yield from _positional(name.split(), base, worlds)
        yield [*words, "--no-such-option"]
        yield [*words, "one-too-many"]
        yield [*words, ""]
        for action in command.parser()._actions:
            yield from _option(words, action)
        if "--gin_file" in str(command.parser()._option_string_actions):
            yield from ([*words, word] for word in GIN)
    yield from (
        [],
        [""],
        ["no-such"],
        ["data"],
        ["data", ""],
        ["ppr", "no-such"],
        ["--version", "x"],
    )


def _sound(worlds: Path) -> dict[str, list[str]]:
    """Words that are right and quickly done; what takes long has a file where its folder goes."""
    run, dataset, backbone = (str(worlds / name) for name in ("run", "dataset", "backbone"))
    taken = str(worlds / "templates" / "own.toml")
    out, nowhere = ["--out", "out"], ["--out", taken]
    sequences = str(worlds / "sequences" / "sequences.txt")
    data = f"--gin.DATASET={dataset}"
    train = ["--gin_file=runs/p5.gin", data, f"--gin.RUN_DIR={taken}"]
    return {
        "data prepare amazon": ["--reviews", str(worlds / "amazon" / "reviews.json"), *out],
        "data prepare recbole": ["--folder", str(worlds / "recbole"), "--k-core", "3", *out],
        "data prepare sequences": ["--sequences", sequences, "--k-core", "3", *out],
        "reproduce": ["toys", "--data", str(worlds), *nowhere],
        "data prepare synthetic": [*out],
        "data prepare table": [
            *("--interactions", str(worlds / "table" / "t.csv"), "--k-core", "3"),
            *("--columns", "rating=stars", *out),
        ],
        "data inspect": [dataset],
        "data audit": [dataset],
        "data vocabulary": [*train, *nowhere],
        "data export-shards": [*train, *nowhere],
        "data count-pairs": [dataset],
        "train": train,
        "evaluate": [run, "--prompts", "2-3", "--limit", "2"],
        "compare": [run, run],
        "recommend": [run, "--user", "U1", "--beam", "8"],
        "rank": [run, *nowhere, "-k", "2", "--beam", "8"],
        "merge": [str(worlds / "ranking"), *nowhere],
        "explain": [run, "--user", "U1", "--item", "I1"],
        "generate": [run, "--text", "hello"],
        "report": [run],
        "export": [run, *nowhere],
        "triggers search": [run, *nowhere, "--family", "sequential"],
        "triggers evaluate": [run, str(worlds / "triggers"), "--limit", "2"],
        "triggers ablate": [run, *nowhere, "--family", "sequential", "--vary", "layout"],
        "ppr study": [dataset, *nowhere],
        "ppr report": [backbone],
        "ppr pretrain": ["--gin_file=ppr/sasrec.gin", data, f"--gin.RUN_DIR={taken}"],
        "ppr tune": [backbone, *nowhere],
        "ppr evaluate": [backbone, "--split", "test"],
        "ppr recommend": [str(worlds / "tuned"), "--user", "U1"],
        "ppr predict": [backbone, *nowhere, "--attribute", "age"],
        "ppr soft": ["--gin_file=ppr/soft.gin", f"--gin.RUN={run}", f"--gin.OUT={taken}"],
        "ppr compare": [run, "--soft", str(worlds / "soft"), "--limit", "2"],
    }


def _positional(name: list[str], base: list[str], worlds: Path) -> Iterator[list[str]]:
    """Leave out each word, and put other folders and files for each that is a path."""
    others = ("run", "dataset", "backbone", "triggers", "tuned", "soft", "ranking", "evaluation")
    for place, word in enumerate(base):
        yield [*name, *base[:place], *base[place + 1 :]]
        if word.startswith(str(worlds)):
            wrong = [str(worlds / other) for other in others if str(worlds / other) != word]
            wrong += [str(worlds / "templates" / "own.toml"), "", "nowhere", ".", "/dev/null", "-x"]
            yield from ([*name, *base[:place], each, *base[place + 1 :]] for each in wrong)


def _option(words: list[str], action: argparse.Action) -> Iterator[list[str]]:
    if not action.option_strings or "--help" in action.option_strings:
        return
    flag = action.option_strings[-1]
    yield [*words, flag]
    if action.nargs == 0:
        yield [*words, f"{flag}=1"]
        yield [*words, flag, flag]
        return
    for value in VALUES:
        yield [*words, f"{flag}={value}" if flag.startswith("--") else f"{flag}{value}"]
    yield [*words, flag, "1", flag, "2"]
    yield [*words, flag[:-1], "1"]


class TooSlow(Exception):
    """A command line took longer than SECONDS."""


def outcome(words: list[str], folder: Path) -> str:
    """What is wrong with how p5jax took a command line; "" where it is done or one line."""
    folder.mkdir(parents=True)
    said, complained, before = io.StringIO(), io.StringIO(), os.getcwd()

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            status = main(words)
    except TooSlow:
        return f"took more than {SECONDS} s"
    except (Exception, SystemExit) as error:
        known = isinstance(error, UserError)
        return f"{'uncaught ' if known else ''}{type(error).__name__}: {str(error)[:100]}"
    finally:
        signal.alarm(0)
        os.chdir(before)
    lines = complained.getvalue().splitlines()
    if status == 0:
        return ""
    if status not in (1, 2):
        return f"exit status {status}"
    if status == 2 and not (
        words and sum(line.startswith("p5jax: error: ") for line in lines) == 1
    ):
        return "" if not words else f"{len(lines)} lines: {lines[-1:]}"
    if status == 2 and lines and not lines[-1].startswith("p5jax: error: "):
        return f"message of several lines, last {lines[-1][:60]!r}"
    partial = [path.name for path in folder.rglob(".*partial*")]
    return f"left {partial}" if partial else ""
