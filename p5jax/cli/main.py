"""The p5jax command: find the command, call the library, print; no logic of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from p5jax.cli import data, extending, memory, ppr, recipes, runs, serving, tasks, triggers
from p5jax.cli.command import Command
from p5jax.core.errors import Interrupted, UserError, in_words, nearest
from p5jax.core.printing import end_output, escape_unprintable, one_line

# Imports of the library stand inside the commands: `p5jax --help` must not wait for jax.

SECTIONS = {
    "Start here": recipes.COMMANDS,
    "Datasets": data.COMMANDS,
    "P5 models": (*runs.COMMANDS, *memory.COMMANDS, *extending.COMMANDS, *serving.COMMANDS),
    "Trigger tokens (PAP-REC)": triggers.COMMANDS,
    "Prompts from profiles (PPR)": ppr.COMMANDS,
    "SeqIO tasks": tasks.COMMANDS,
}
COMMANDS = {command.name: command for section in SECTIONS.values() for command in section}
_HELP, _VERSION = ("-h", "--help"), "--version"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; return its exit status (2 for a user's mistake)."""
    escape_unprintable()
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv))
        end_output()
        return status
    except (UserError, UnicodeError) as error:
        return _refused(str(error))
    except Interrupted as stop:
        from p5jax.parallel import distributed

        distributed.report(str(stop))
        return 128 + stop.signal
    except KeyboardInterrupt:
        print("p5jax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        return _refused(in_words(error))


def _refused(line: str) -> int:
    print(f"p5jax: error: {one_line(line)}", file=sys.stderr)
    try:
        end_output()
    except OSError as error:
        print(f"p5jax: error: {in_words(error)}", file=sys.stderr)
    return 2


def _run(words: list[str]) -> int:
    depth = 0
    while depth < len(words) and _known(words[: depth + 1]):
        depth += 1
    name, rest = " ".join(words[:depth]), words[depth:]
    if name in COMMANDS:
        command = COMMANDS[name]
        arguments = command.parse(rest)
        if getattr(arguments, "gin_imports", None):
            from p5jax.core.gin_text import allow_imports

            allow_imports(*arguments.gin_imports)
        try:
            return command.run(arguments) or 0
        except UserError as error:
            if getattr(error, "others", ()) and "from_step" in arguments:
                raise UserError(f"{error} (see --from-step)") from error
            raise
    if rest and rest[0] in _HELP:
        print(_help(name))
        return 0
    if words == [_VERSION]:
        from importlib.metadata import version  # slow to import, and help must be quick

        print(f"p5jax {version('p5jax')}")
        return 0
    if not words:
        print(_help(""), file=sys.stderr)
        return 2
    below = f"p5jax {name}".rstrip()
    if not rest:
        raise UserError(f"{below}: expected a command after it; see {below} --help")
    known = {command.split()[depth] for command in COMMANDS if _known(words[:depth], command)}
    raise UserError(f"{below}: no command {rest[0]!r}{nearest(rest[0], known)}; see {below} --help")


def _known(words: Sequence[str], *names: str) -> bool:
    """Whether a command's name begins with these words."""
    return any(name.split()[: len(words)] == list(words) for name in names or COMMANDS)


def _help(group: str) -> str:
    """The commands whose names begin with those of a group, "" for all, one line each."""
    lines = [f"usage: p5jax {group} COMMAND …".replace("  ", " ")]
    if not group:
        lines += ["", "Recommendation as language processing on JAX."]
    width = max(map(len, COMMANDS))
    for title, section in SECTIONS.items():
        members = [each for each in section if _known(group.split(), each.name)]
        if members:
            lines += ["", f"{title}:", *(f"  {_line(each, width)}" for each in members)]
    return "\n".join([*lines, "", "p5jax COMMAND --help shows the options of a command."])


def _line(command: Command, width: int) -> str:
    return f"{command.name:<{width}}  {command.help}"


if __name__ == "__main__":
    sys.exit(main())
