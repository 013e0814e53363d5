"""The commands `p5jax triggers …`: search for trigger tokens and evaluate what was found."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from p5jax.cli.command import Command, opened_in_session
from p5jax.cli.options import (
    RESUMES,
    add_limit,
    add_mesh,
    add_options,
    add_out,
    add_split,
    from_options,
)
from p5jax.cli.output import print_comparison, print_computed, print_text


def _search_options(parser: ArgumentParser) -> None:
    from p5jax.triggers.settings import SearchConfig

    parser.add_argument("folder", metavar="RUN", help="the folder of a run")
    add_out(parser, RESUMES)
    add_options(parser, SearchConfig)
    add_mesh(parser)


def _search(arguments: Namespace) -> None:
    from p5jax.triggers.searching import search
    from p5jax.triggers.settings import SearchConfig

    config = from_options(SearchConfig, arguments)
    with opened_in_session(arguments.folder, arguments.model_parallel) as run:
        search(run, config, arguments.out)


def _ablate_options(parser: ArgumentParser) -> None:
    from p5jax.triggers.settings import ABLATIONS

    _search_options(parser)
    parser.add_argument(
        "--vary",
        required=True,
        choices=tuple(ABLATIONS),
        help="the setting whose values are compared",
    )
    add_limit(parser)


def _ablate(arguments: Namespace) -> None:
    from p5jax.triggers.ablation import ablate
    from p5jax.triggers.evaluation import format_prompt_comparison
    from p5jax.triggers.settings import SearchConfig

    config = from_options(SearchConfig, arguments)
    with opened_in_session(arguments.folder, arguments.model_parallel) as run:
        print_computed(
            lambda: ablate(run, config, arguments.vary, arguments.out, arguments.limit),
            lambda rows: print_text(format_prompt_comparison(rows)),
        )


def _evaluate_options(parser: ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", help="the folder of a run")
    parser.add_argument("triggers", nargs="+", metavar="DIR", help="searches for triggers")
    add_split(parser)
    add_limit(parser)
    add_mesh(parser)


def _evaluate(arguments: Namespace) -> None:
    from p5jax.triggers.evaluation import evaluate_triggers

    with opened_in_session(arguments.folder, arguments.model_parallel) as run:
        print_computed(
            lambda: evaluate_triggers(run, arguments.triggers, arguments.split, arguments.limit),
            lambda rows: print_comparison(rows, run.dataset.leaky),
        )


COMMANDS = (
    Command(
        "triggers search", "Search for the trigger tokens of one family", _search_options, _search
    ),
    Command(
        "triggers evaluate",
        "Compare the prompts that were found with manual ones",
        _evaluate_options,
        _evaluate,
    ),
    Command(
        "triggers ablate",
        "Search with each value of one setting and compare",
        _ablate_options,
        _ablate,
    ),
)
