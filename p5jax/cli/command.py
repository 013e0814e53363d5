"""A command of p5jax: its name, its line in the help, its options, and what it does."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from p5jax.core.errors import UserError


@dataclass(frozen=True)
class Command:
    """One command.

    name: all its words, "data prepare amazon". help: one sentence without a full stop. options:
    adds them to a parser, when the command is asked for: their settings may take time to import.
    run: does it, and returns an exit status where that is not 0.
    """

    name: str
    help: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]


class Parser(argparse.ArgumentParser):
    """A parser that raises UserError for what it cannot read."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message}; see {self.prog} --help")


def parser_of(command: Command) -> Parser:
    """Return the parser of a command's options."""
    parser = Parser(
        prog=f"p5jax {command.name}", description=f"{command.help}.", allow_abbrev=False
    )
    command.options(parser)
    return parser
