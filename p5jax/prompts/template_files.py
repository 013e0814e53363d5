"""Files of prompt templates: shipped ones, TOML, P5's own."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from p5jax.core.documents import read_toml
from p5jax.core.errors import UserError, nearest, shown
from p5jax.core.files import replace_text
from p5jax.prompts.template import PromptTemplate

SHIPPED = ("amazon", "yelp")
_KEYS = {"family": str, "inputs": str, "targets": str, "seen": bool, "zero_shot": bool}


def load_templates(name_or_path: str | os.PathLike[str]) -> dict[str, PromptTemplate]:
    """Return the templates of "amazon", "yelp", a .toml file or a P5 all_*_templates.py, by id.

    UserError naming the file and line when it is absent or malformed.
    """
    if name_or_path in SHIPPED:
        path = Path(__file__).with_name(f"{name_or_path}.toml")
    else:
        path = Path(name_or_path)
    if path.suffix == ".py":
        from p5jax.prompts.p5_import import import_p5_templates  # it builds on this module

        return import_p5_templates(path)
    return _read(path, nearest(os.fspath(name_or_path), SHIPPED))


def _read(path: Path, known: str = "") -> dict[str, PromptTemplate]:
    tables, text = read_toml(path, f"amazon, yelp or a template file{known}")
    if not tables:
        raise UserError(f"{path}: found no prompts, expected at least one")
    lines = text.splitlines()
    return {id: _from_table(id, table, _place(path, lines, id)) for id, table in tables.items()}


def chosen_templates(
    name_or_path: str | os.PathLike[str], prompts: Collection[str]
) -> dict[str, PromptTemplate]:
    """Return the templates of some `prompts`, or all if there are none, in their file's order.

    p5jax's own (L-1, L-2, H-1) are used only where they are named. UserError as `load_templates`,
    and naming the nearest when a prompt is unknown.
    """
    templates = load_templates(name_or_path)
    if not prompts:
        return templates
    templates = _read(Path(__file__).with_name("p5jax.toml")) | templates
    for prompt in prompts:
        if prompt not in templates:
            near = nearest(prompt, templates)
            raise UserError(f"prompts: {prompt!r} is not in {name_or_path}{near}")
    return {id: template for id, template in templates.items() if id in prompts}


def save_templates(templates: Mapping[str, PromptTemplate], path: str | os.PathLike[str]) -> None:
    """Write templates as a .toml file that `load_templates` reads back unchanged."""
    blocks = []
    for template in templates.values():
        lines = [
            f"[{_quoted(template.id)}]",
            f"family = {_quoted(template.family)}",
            f"inputs = {_quoted(template.inputs)}",
            f"targets = {_quoted(template.targets)}",
        ]
        lines += [] if template.seen else ["seen = false"]
        lines += ["zero_shot = true"] if template.zero_shot else []
        blocks.append("\n".join(lines) + "\n")
    replace_text(Path(path), "\n".join(blocks))


def _place(path: Path, lines: list[str], id: str) -> str:
    header = {f'["{id}"]', f"['{id}']", f"[{id}]"}
    number = next((n for n, line in enumerate(lines, 1) if line.strip() in header), 1)
    return f"{path}:{number}"


def _from_table(id: str, table: Any, place: str) -> PromptTemplate:
    if not isinstance(table, dict):
        raise UserError(f"{place}: found {id} = {shown(table)}, expected a table per prompt")
    for key, value in table.items():
        if key not in _KEYS:
            raise UserError(f"{place}: found key {key!r}{nearest(key, _KEYS)}")
        if not isinstance(value, _KEYS[key]):
            expected = _KEYS[key].__name__
            raise UserError(f"{place}: found {key} = {shown(value)}, expected a {expected}")
    for key in ("family", "inputs", "targets"):
        if key not in table:
            raise UserError(f"{place}: prompt {id} has no {key}")
    try:
        return PromptTemplate(id=id, **table)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which only TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
