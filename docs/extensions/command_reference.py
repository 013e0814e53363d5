"""The directive `commands`: every command of p5jax, as its own parser describes it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from p5jax.cli.main import make_parser


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a command's subcommands by name, in the order of its help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the commands that do something, in the order of their help."""
    children = subcommands(parser)
    if not children:
        yield parser
    for child in children.values():
        yield from leaves(child)


def as_markdown(parser: argparse.ArgumentParser) -> str:
    """Return one command as a section: what it does, how it is called, what its options mean."""
    formatter = argparse.HelpFormatter(parser.prog, width=88)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")
    lines = [f"## {parser.prog}", "", _sentence(parser.description or ""), ""]
    lines += ["```text", formatter.format_help().strip(), "```", ""]
    rows = [row for action in parser._actions if (row := _row(action))]
    if rows:
        lines += ["| argument | meaning | default |", "|---|---|---|", *rows, ""]
    if parser.epilog:
        lines += [parser.epilog, ""]
    return "\n".join(lines)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _row(action: argparse.Action) -> str:
    if not action.help or action.help == argparse.SUPPRESS or action.dest == "help":
        return ""
    name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    meaning = action.help % {**vars(action), "prog": ""}
    if action.choices:
        meaning += f" ({', '.join(map(str, action.choices))})"
    shown = action.default not in (None, "", False, (), [], argparse.SUPPRESS)
    default = f"`{action.default}`" if shown and not isinstance(action.default, bool) else ""
    return "| " + " | ".join((f"`{name}`", meaning.replace("|", "\\|"), default)) + " |"


class Commands(SphinxDirective):
    """All commands, one section each."""

    def run(self) -> list[nodes.Node]:
        text = "\n".join(as_markdown(parser) for parser in leaves(make_parser()))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
