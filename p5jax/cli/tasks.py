"""The commands `p5jax tasks …`: what is registered with SeqIO, what it looks like, caching it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from p5jax.core.errors import UserError


def add(commands: Any, command: Any) -> None:
    """Add the commands below `p5jax tasks`; `command` makes one of a name, function and help."""
    list_ = command("list", _list, "names, sizes and mixture rates", commands)
    show = command("show", _show, "examples as text and tokens, lengths, what is cut", commands)
    show.add_argument("name", metavar="NAME")
    show.add_argument("-n", type=int, default=5, metavar="N")
    show.add_argument("--split", default="train", choices=("train", "validation", "test"))
    show.add_argument("--inputs", type=int, metavar="TOKENS", help="length of inputs")
    show.add_argument("--targets", type=int, default=64, metavar="TOKENS")
    cache_ = command("cache", cache, "write tasks as TFRecord files, on Beam", commands)
    cache_.add_argument("names", nargs="+", metavar="NAME")
    cache_.add_argument("--out", required=True, metavar="DIR")
    cache_.add_argument("--shards", type=int, default=16, metavar="N", help="files at least")
    cache_.epilog = "Words after -- are Beam's options, such as --runner=DirectRunner."
    for each in (list_, show, cache_):
        each.add_argument("--run", dest="run_folder", metavar="RUN")
        each.add_argument("--dataset", metavar="DIR")
        each.add_argument("--vocabulary", metavar="FOLDER|FILE")
        each.add_argument("--templates", metavar="NAME|FILE", help="of --dataset (amazon)")
        each.add_argument("--epochs", type=int, default=10, metavar="N", help="of the train split")
        each.add_argument("--seed", type=int, default=0, metavar="N")


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Cut the line of `p5jax tasks cache` at "--" into its own words and Beam's options."""
    words = list(words)
    if words[:2] != ["tasks", "cache"] or "--" not in words:
        return words, []
    cut = words.index("--")
    return words[:cut], words[cut + 1 :]


def _registered(arguments: argparse.Namespace) -> str:
    """Register what the arguments name; return the whole mixture's name."""
    # Through the environment, from which workers of a caching job register the same.
    given = arguments.dataset, arguments.vocabulary
    excess = any((*given, arguments.templates))
    if excess if arguments.run_folder else not all(given):
        raise UserError("tasks: expected --run RUN alone, or --dataset DIR with --vocabulary FILE")
    values = {
        "P5JAX_RUN": arguments.run_folder,
        "P5JAX_DATASET": arguments.dataset,
        "P5JAX_VOCABULARY": arguments.vocabulary,
    }
    for name, path in values.items():
        os.environ.pop(name, None)
        if path:
            os.environ[name] = str(Path(path).absolute())
    os.environ["P5JAX_TEMPLATES"] = arguments.templates or "amazon"
    os.environ["P5JAX_EPOCHS"] = str(arguments.epochs)
    os.environ["P5JAX_SEED"] = str(arguments.seed)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        from p5jax.tasks import environment
    except ImportError as error:
        if str(error.name).startswith("p5jax"):
            raise
        raise UserError(f"tasks: {error}; pip install 'p5jax[seqio]'") from error
    return environment.register_from(os.environ)


def _list(arguments: argparse.Namespace) -> None:
    whole = _registered(arguments)
    from p5jax.tasks.inspection import listing

    print(listing(whole))


def _show(arguments: argparse.Namespace) -> None:
    for option in ("n", "inputs", "targets"):
        number = getattr(arguments, option)
        if number is not None and number < 1:
            raise UserError(f"tasks show: found {option} = {number}, expected 1 or more")
    _registered(arguments)
    from p5jax.tasks.inspection import show

    print(show(arguments.name, arguments.split, arguments.n, arguments.inputs, arguments.targets))


def cache(arguments: argparse.Namespace, beam_options: list[str]) -> None:
    """Write tasks, and those of mixtures, to a folder for SeqIO's use_cached."""
    _registered(arguments)
    from p5jax.tasks.caching import cache_tasks

    written = cache_tasks(arguments.names, arguments.out, beam_options, arguments.shards)
    for name, folder in written.items():
        print(f"{name}: {folder}")
