"""The commands `p5jax tasks …`: what is registered with SeqIO, what it looks like, caching it."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from p5jax.cli.command import Command
from p5jax.cli.options import BEAM, add_out
from p5jax.cli.output import show
from p5jax.core.errors import UserError
from p5jax.data.names import SPLITS

# Defaults of p5jax.tasks are written again here, for it imports SeqIO and help need not wait;
# tests/tasks/test_tasks_commands.py compares them.


def _source_options(parser: ArgumentParser) -> None:
    parser.add_argument("--run", dest="run_folder", metavar="RUN", help="the folder of a run")
    parser.add_argument("--dataset", metavar="DIR", help="a dataset folder, without a run")
    parser.add_argument("--vocabulary", metavar="FOLDER|FILE", help="vocabulary for --dataset")
    parser.add_argument(
        "--templates", metavar="NAME|FILE", help="prompts for --dataset (default: amazon)"
    )
    parser.add_argument(
        "--epochs", type=int, default=10, metavar="N", help="epochs of the train split (default 10)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the train split (default 0)"
    )


def _show_options(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a task or mixture")
    parser.add_argument("-n", type=int, default=5, metavar="N", help="examples (default 5)")
    parser.add_argument(
        "--split", default="train", choices=SPLITS, help="split to show (default train)"
    )
    parser.add_argument("--inputs", type=int, metavar="TOKENS", help="length of inputs")
    parser.add_argument(
        "--targets", type=int, default=64, metavar="TOKENS", help="length of targets (default 64)"
    )
    _source_options(parser)


def _cache_options(parser: ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="tasks or mixtures")
    add_out(parser)
    parser.add_argument(
        "--shards", type=int, default=16, metavar="N", help="files at least (default 16)"
    )
    parser.epilog = f"{BEAM}."
    _source_options(parser)


def _registered(arguments: Namespace) -> str:
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
    whole: str = environment.register_from(os.environ)
    return whole


def _list(arguments: Namespace) -> None:
    whole = _registered(arguments)
    from p5jax.tasks.inspection import listing

    show(listing(whole))


def _show(arguments: Namespace) -> None:
    for option in ("n", "inputs", "targets"):
        number = getattr(arguments, option)
        if number is not None and number < 1:
            raise UserError(f"tasks show: found {option} = {number}, expected 1 or more")
    _registered(arguments)
    from p5jax.tasks.inspection import show as shown

    show(shown(arguments.name, arguments.split, arguments.n, arguments.inputs, arguments.targets))


def _cache(arguments: Namespace) -> None:
    """Write tasks, and those of mixtures, to a folder for SeqIO's use_cached."""
    _registered(arguments)
    from p5jax.tasks.caching import cache_tasks

    beam_options = arguments.after_dashes
    written = cache_tasks(arguments.names, arguments.out, beam_options, arguments.shards)
    for name, folder in written.items():
        show(f"{name}: {folder}")


COMMANDS = (
    Command("tasks list", "List tasks, their sizes and mixture rates", _source_options, _list),
    Command("tasks show", "Show examples as text and tokens", _show_options, _show),
    Command(
        "tasks cache",
        "Write tasks as TFRecord files, on Beam",
        _cache_options,
        _cache,
        takes_dashes=True,
    ),
)
