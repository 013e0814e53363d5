"""The command that lets a run know new users, items and interactions."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from p5jax.cli.command import Command
from p5jax.cli.options import add_options, add_out, from_options
from p5jax.cli.output import show, warn_of_leak
from p5jax.cli.runs import used_run_options
from p5jax.data.formats import NewRowsOptions


def _extend_options(parser: ArgumentParser) -> None:
    used_run_options(parser)
    add_options(parser, NewRowsOptions)
    add_out(parser, metavar="RUN2")


def _extend(arguments: Namespace) -> None:
    from p5jax.jobs.extend import extend
    from p5jax.runs.run import Run

    options = from_options(NewRowsOptions, arguments)
    run = Run.load(arguments.folder, step=arguments.from_step)
    warn_of_leak(run.dataset)
    manifest = extend(run, arguments.out, options).dataset.manifest
    for topic, sentence in manifest["understood"].items():
        show(f"{topic:<12} {sentence}")
    for name, count in manifest["counts"].items():
        show(f"{name:<24} {count:>12,}")
    show(f"wrote {arguments.out}")


COMMANDS = (
    Command(
        "extend",
        "Let a run know new users, items and interactions, without training",
        _extend_options,
        _extend,
    ),
)
