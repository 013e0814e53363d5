"""The directive `commands`: every command of p5jax, as its own parser describes it."""

from __future__ import annotations

import os

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from p5jax.cli.command import Command
from p5jax.cli.main import SECTIONS

WIDTH = "96"  # columns of a page


def as_markdown(command: Command) -> str:
    """Return a command as a section that holds its help."""
    text = command.parser().format_help().strip()
    return f"### p5jax {command.name}\n\n```text\n{text}\n```\n"


class Commands(SphinxDirective):
    """All commands: a section for each group, and in it one for each command."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        os.environ["COLUMNS"] = WIDTH
        parts = []
        for title, commands in SECTIONS.items():
            parts += [f"## {title}\n", *map(as_markdown, commands)]
        return self.parse_text_to_nodes("\n".join(parts), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
