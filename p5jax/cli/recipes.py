"""The commands that run a whole recipe: quickstart and reproduce."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from p5jax.cli.command import Command
from p5jax.cli.options import RESUMES
from p5jax.cli.output import print_computed, print_results, print_text


def _quickstart_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        default="runs/quickstart",
        metavar="DIR",
        help="folder of the run, with the dataset beside it (default runs/quickstart)",
    )


def _quickstart(arguments: Namespace) -> None:
    from p5jax.jobs.quickstart import quickstart

    quickstart(arguments.out)


def _reproduce_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", help="a recipe of gin/results, or the path of one's own"
    )
    parser.add_argument("--data", metavar="DIR", help="folder below which the raw files are")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help=f"folder of the run, with the dataset beside it (default runs/NAME); {RESUMES}",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="seed of the training (default: the recipe's)"
    )


def _reproduce(arguments: Namespace) -> int:
    from p5jax.evaluation.recipe import format_figures
    from p5jax.jobs.reproduce import Reproduction, reproduce
    from p5jax.parallel import runtime

    def show_all(found: Reproduction) -> None:
        print_results(found.results, found.run.dataset.leaky, as_json=False)
        print_text(f"\n{format_figures(found.figures)}")

    a = arguments
    with runtime.session():
        found = print_computed(lambda: reproduce(a.name, a.data, a.out, a.seed), show_all)
    return 0 if found.holds else 1


COMMANDS = (
    Command(
        "quickstart",
        "Prepare, train, evaluate and report on a small synthetic dataset",
        _quickstart_options,
        _quickstart,
    ),
    Command(
        "reproduce",
        "Run a measured recipe from raw files to figures beside their bands",
        _reproduce_options,
        _reproduce,
    ),
)
