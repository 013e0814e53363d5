"""A command of p5jax: its name, its line in the help, its options, and what it does."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from p5jax.core.errors import UserError

if TYPE_CHECKING:
    from p5jax.runs.run import Run


class Parser(argparse.ArgumentParser):
    """A parser that raises UserError for what it cannot read."""

    def with_values(self, words: Sequence[str]) -> list[str]:
        """Return the words with a value that begins with a dash joined to its option.

        Keys such as -x and --B0 are values as any other, unless they are options of the command.
        """
        options = self._option_string_actions
        joined: list[str] = []
        for word in words:
            action = options.get(joined[-1]) if joined else None
            takes_one = action is not None and action.nargs is None and joined[-1][:2] == "--"
            name = word.partition("=")[0]
            if (
                takes_one
                and word.startswith("-")
                and name not in (*options, "--")
                and word[:6] != "--gin."
            ):
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return joined

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{message}; see {self.prog} --help")


@dataclass(frozen=True)
class Command:
    """One command.

    name: all its words, "data prepare amazon". help: a sentence without its full stop. options:
    adds them to a parser; called when the command is asked for, since settings take time to
    import. run: does it, and returns an exit status where that is not 0. takes_dashes: words
    after "--" are handed on as `after_dashes`.
    """

    name: str
    help: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    takes_dashes: bool = False

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Read the words after the command's name; UserError for what it does not take.

        Words --gin.NAME=VALUE of a command with gin files become the mapping `bindings`.
        """
        words, after = [*words], list[str]()
        if self.takes_dashes and "--" in words:
            cut = words.index("--")
            words, after = words[:cut], words[cut + 1 :]
        parser = self.parser()
        arguments, rest = parser.parse_known_args(parser.with_values(words))
        takes_gin = "gin_file" in arguments
        unknown = [word for word in rest if not (takes_gin and word.startswith("--gin."))]
        if unknown:
            raise UserError(f"unknown argument {unknown[0]!r}; see p5jax {self.name} --help")
        if takes_gin:
            arguments.gin_file = arguments.gin_file or []
            arguments.bindings = dict(map(_binding, rest))
        if self.takes_dashes:
            arguments.after_dashes = after
        return arguments

    def parser(self) -> Parser:
        """Return the parser of the options."""
        parser = Parser(prog=f"p5jax {self.name}", description=f"{self.help}.", allow_abbrev=False)
        self.options(parser)
        return parser


@contextlib.contextmanager
def opened_in_session(folder: str, model_parallel: int, step: int | None = None) -> Iterator[Run]:
    """Open a run on a mesh of all devices and processes, and end together with the others."""
    from p5jax.jobs import start
    from p5jax.parallel import runtime

    with runtime.session():
        yield start.opened(folder, model_parallel, step)


def _binding(word: str) -> tuple[str, str]:
    name, sign, value = word.removeprefix("--gin.").partition("=")
    if not name.strip() or not sign or not value.strip():
        raise UserError(f"{word}: expected --gin.NAME=VALUE")
    return name.strip(), value.strip()
