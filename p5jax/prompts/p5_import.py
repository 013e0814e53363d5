"""Import of a P5 `all_*_templates.py`, read as literals and never executed."""

from __future__ import annotations

import ast
import os
import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p5jax.core.documents import read_text
from p5jax.core.errors import UserError, shown
from p5jax.prompts.template import PromptTemplate

_TASKS = {
    "rating": "rating",
    "sequential": "sequential",
    "explanation": "explanation",
    "review": "review",
    "traditional": "direct",
}
_ZERO_SHOT = "zeroshot"
_INPUTS = {
    "user_desc": "udesc",
    "item_title": "title",
    "purchase_history": "hist",
    "visit_history": "hist",
    "candidates": "cand",
    "star_rating": "star",
    "review_headline": "headline",
    "review_body": "review",
    "feature": "feature",
    "brand": "brand",
    "price": "price",
}
_TARGETS = {
    "star_rating": "rating",
    "yes_no": "yes_no",
    "like_dislike": "like",
    "item_id": "item",
    "groundtruth_item_ids": "item",
    "explanation": "explanation",
    "review_headline": "headline",
}
_KEYS = ("id", "task", "source", "source_argv", "target", "target_argv")


@dataclass
class _Record:
    """The literals assigned to one dict of the file, with the line each came from.

    group_key: the key under which its group has it, "" for one that no group takes.
    """

    line: int
    group_key: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


def import_p5_templates(path: str | os.PathLike[str]) -> dict[str, PromptTemplate]:
    """Return the templates of a P5 template file, by id.

    P5 holds each family's last prompt out of training (and all zero-shot ones); the file does not
    say so, hence the highest number of a family is marked unseen. UserError with file and line for
    anything but assignments of literals to dicts.
    """
    path = Path(path)
    text = read_text(path, "a P5 template file")
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno}: {error.msg}; expected Python literals") from None
    except (ValueError, RecursionError, MemoryError) as error:
        cause = str(error) if isinstance(error, ValueError) else "values within values without end"
        raise UserError(f"{path}: found {cause}; expected Python literals") from None
    templates: dict[str, PromptTemplate] = {}
    for record in _records(path, text, tree):
        template = _template(path, record)
        if template.id in templates:
            raise UserError(f"{path}:{record.lines['id']}: found prompt {template.id} twice")
        templates[template.id] = template
    if not templates:
        raise UserError(f"{path}: found no prompts, expected template['source'] = ... assignments")
    return _hold_out(templates)


def _records(path: Path, text: str, tree: ast.Module) -> list[_Record]:
    """Follow the file's assignments and return the dicts that hold a template."""
    records: list[_Record] = []
    lines = text.splitlines()
    named: dict[str, _Record] = {}
    for node in tree.body:
        match node:
            case ast.Expr(value=ast.Constant()):
                continue  # a comment in the shape of a string
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(keys=[])):
                named[name] = _Record(node.lineno)
                records.append(named[name])
            case ast.Assign(
                targets=[
                    ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(key)))
                ],
                value=value,
            ) if name in named:
                if isinstance(value, ast.Name) and value.id in named:
                    named[value.id].group_key = key  # or a group enters its file's table
                    continue
                if key in named[name].values:
                    raise UserError(
                        f"{path}:{node.lineno}: found {key!r} of {name} twice, expected"
                        f" {name} = {{}} before"
                    )
                named[name].values[key] = _literal(path, lines, value)
                named[name].lines[key] = node.lineno
            case _:
                found = shown(lines[node.lineno - 1].strip(), 60)
                raise UserError(
                    f"{path}:{node.lineno}: found {found}, expected name = {{}}"
                    " or name['key'] = literal"
                )
    return [record for record in records if record.values]


def _literal(path: Path, lines: list[str], value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        found = shown(lines[value.lineno - 1].strip(), 60)
        raise UserError(f"{path}:{value.lineno}: found {found}, expected a literal") from None


def _template(path: Path, record: _Record) -> PromptTemplate:
    for key in _KEYS:
        if key not in record.values:
            raise UserError(f"{path}:{record.line}: found a template without {key!r}")
    for key, value in record.values.items():
        _check_type(path, record, key, value)
    values = record.values
    if record.group_key != values["id"]:
        id = shown(values["id"], 20)
        raise UserError(
            f"{path}:{record.lines['id']}: found {id} in no group, expected GROUP[{id}] = template"
        )
    inputs = _substitute(path, record, "source", _input_name)
    targets = _substitute(path, record, "target", _target_name)
    zero_shot = values["task"] == _ZERO_SHOT
    if zero_shot:
        family = "explanation" if "{explanation}" in targets else "rating"
    elif values["task"] in _TASKS:
        family = _TASKS[values["task"]]
    else:
        known = ", ".join([*_TASKS, _ZERO_SHOT])
        line = record.lines["task"]
        raise UserError(f"{path}:{line}: found task {values['task']!r}, expected one of {known}")
    try:
        return PromptTemplate(
            values["id"], family, inputs, targets, seen=not zero_shot, zero_shot=zero_shot
        )
    except UserError as error:
        raise UserError(f"{path}:{record.lines['source']}: {error}") from None


def _check_type(path: Path, record: _Record, key: str, value: Any) -> None:
    place = f"{path}:{record.lines[key]}"
    if key in ("id", "task", "source", "target") and not isinstance(value, str):
        raise UserError(f"{place}: found {key} {shown(value)}, expected a string")
    if key in ("source_argv", "target_argv") and not (
        isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
    ):
        raise UserError(f"{place}: found {key} {shown(value)}, expected a list of strings")
    if key in ("source_argc", "target_argc"):
        named = record.values.get(key.replace("argc", "argv"), ())
        count = len(named) if isinstance(named, list | tuple) else 0
        if value != count:
            raise UserError(f"{place}: found {key} {shown(value)}, expected {count}")


def _substitute(path: Path, record: _Record, key: str, rename: Any) -> str:
    """Return the text of `key` with each {} replaced by the placeholder its argument maps to."""
    place = f"{path}:{record.lines[key]}"
    arguments = list(record.values[f"{key}_argv"])
    try:
        parts = list(string.Formatter().parse(record.values[key]))
    except ValueError as error:
        raise UserError(f"{place}: {error} in {key}") from None
    slots = [part for part in parts if part[1] is not None]
    if any(part[1:] != ("", "", None) for part in slots) or len(slots) != len(arguments):
        raise UserError(
            f"{place}: found {len(slots)} placeholders in {key}, expected {len(arguments)} plain"
            f" {{}}, one per argument of {key}_argv"
        )
    text = ""
    for literal, name, _, _ in parts:
        text += literal.replace("{", "{{").replace("}", "}}")
        if name is not None:
            argument = arguments.pop(0)
            text, placeholder = rename(text, argument)
            if placeholder is None:
                raise UserError(
                    f"{path}:{record.lines[f'{key}_argv']}: found argument {argument!r}"
                    f" after {text[-8:]!r}, which has no counterpart here"
                )
            text += f"{{{placeholder}}}"
    return text


def _input_name(text: str, argument: str) -> tuple[str, str | None]:
    # Here {uid} and {iid} bring their prefix along; P5 writes it into the prompt.
    if argument == "user_id" and text.endswith("user_"):
        return text.removesuffix("user_"), "uid"
    if argument == "item_id":
        return (text.removesuffix("item_"), "iid") if text.endswith("item_") else (text, "item")
    return text, _INPUTS.get(argument)


def _target_name(text: str, argument: str) -> tuple[str, str | None]:
    return text, _TARGETS.get(argument)


def _hold_out(templates: dict[str, PromptTemplate]) -> dict[str, PromptTemplate]:
    """Mark each family's highest-numbered prompt unseen, where the family has another."""
    held_out = set()
    for family in _TASKS.values():
        ids = [t.id for t in templates.values() if t.family == family and not t.zero_shot]
        if len(ids) > 1:
            held_out.add(max(ids, key=_number))
    return {
        id: PromptTemplate(
            id, t.family, t.inputs, t.targets, t.seen and id not in held_out, t.zero_shot
        )
        for id, t in templates.items()
    }


def _number(id: str) -> tuple[int, str]:
    tail = id.rpartition("-")[2]
    return (int(tail) if tail.isdecimal() else 0, id)
