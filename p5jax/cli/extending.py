"""The commands that let a run know new users and items, and measure how well it then does."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from p5jax.cli.command import Command
from p5jax.cli.options import RESUMES, add_gin, add_options, add_out, from_options
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


def _cold_items_options(parser: ArgumentParser) -> None:
    from p5jax.data.cold_items import ColdItemsConfig

    parser.add_argument("folder", metavar="DATASET", help="a dataset folder")
    add_gin(parser)
    add_out(parser, RESUMES)
    add_options(parser, ColdItemsConfig)


def _cold_items(arguments: Namespace) -> None:
    from p5jax.data.cold_items import ColdItemsConfig
    from p5jax.evaluation.cold_items import format_measured
    from p5jax.jobs.cold_items import cold_items
    from p5jax.parallel import runtime

    config, bindings = from_options(ColdItemsConfig, arguments), arguments.bindings
    folders = arguments.folder, arguments.out
    with runtime.session():
        rows = cold_items(*folders, *arguments.gin_file, config=config, bindings=bindings)
    show(format_measured(rows))


COMMANDS = (
    Command(
        "extend",
        "Let a run know new users, items and interactions, without training",
        _extend_options,
        _extend,
    ),
    Command(
        "cold-items",
        "Train without a share of the items, let them join, and measure their ranks",
        _cold_items_options,
        _cold_items,
    ),
)
