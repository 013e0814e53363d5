"""The directive `settings`: every dataclass that gin binds, with its fields and defaults."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from p5jax.jobs import predict, pretrain, soft, study, train, tune

PPR_JOBS = (pretrain, tune, predict, soft, study)


def sections() -> Mapping[str, Sequence[type]]:
    """Title -> the classes that its jobs bind, each once."""
    p5 = train.CONFIGS
    ppr = dict.fromkeys(cls for job in PPR_JOBS for cls in job.CONFIGS if cls not in p5)
    return {"P5 models": p5, "Prompts from profiles (PPR)": tuple(ppr)}


def as_markdown(cls: type) -> str:
    """Return a dataclass as a section: its docstring, then a row for each field."""
    rows = ["| field | type | default |", "|---|---|---|"]
    for field in dataclasses.fields(cls):
        cells = field.name, str(field.type), default(field)
        rows.append("| " + " | ".join(f"`{cell}`".replace("|", "\\|") for cell in cells) + " |")
    text = inspect.getdoc(cls)
    return "\n".join([f"### {cls.__name__}\n", f"```text\n{text}\n```\n", *rows, ""])


def default(field: dataclasses.Field[object]) -> str:
    """A field's default as Python writes it."""
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return "must be set" if field.default is dataclasses.MISSING else repr(field.default)


class Settings(SphinxDirective):
    """All settings: a section for each group, and in it one for each dataclass."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        parts = []
        for title, classes in sections().items():
            parts += [f"## {title}\n", *map(as_markdown, classes)]
        return self.parse_text_to_nodes("\n".join(parts), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("settings", Settings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
