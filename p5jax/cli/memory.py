"""The command that chooses the memory beside a run's model."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from p5jax.cli.command import Command, opened_in_session
from p5jax.cli.options import add_mesh, add_options, from_options
from p5jax.cli.output import print_leaky, print_text
from p5jax.cli.runs import KEPT, opening, used_run_options


def _memory_options(parser: ArgumentParser) -> None:
    from p5jax.evaluation.settings import MEMORY_USERS, EvaluationConfig

    used_run_options(parser)
    parser.add_argument(
        "--prompt",
        metavar="ID",
        help="prompt for a next item to choose with (default: the usual one)",
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=MEMORY_USERS,
        metavar="N",
        help=f"validation users to choose on, at most (default {MEMORY_USERS})",
    )
    add_options(parser, EvaluationConfig, skip=(*KEPT, "memory"))
    add_mesh(parser)


def _memory(arguments: Namespace) -> None:
    from p5jax.evaluation.memory_choice import format_choices
    from p5jax.evaluation.settings import EvaluationConfig
    from p5jax.jobs.fit_memory import fit_memory

    config = from_options(EvaluationConfig, arguments)
    with opened_in_session(*opening(arguments)) as run:
        choices = fit_memory(run, arguments.prompt, arguments.limit, config)
        print_leaky(run.dataset.leaky)
        print_text(format_choices(choices))


COMMANDS = (
    Command(
        "memory",
        "Choose, on validation users, a memory of interactions beside a run's model",
        _memory_options,
        _memory,
    ),
)
