"""Options of a command derived from the settings that they fill.

A field of a dataclass becomes one option: its name with dashes, its type, its default, and the
`help`, `choices`, `metavar` and `nargs` of its metadata. A field that is a dataclass itself gives
the options of its own fields. So a default is written once, in the library.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Collection, Iterator
from typing import Any, TypeVar

from p5jax.data.names import HELD_OUT_SPLITS

if typing.TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")
RESUMES = "an interrupted command resumes when it is given again"
REPLACES = "{} that is there is replaced"
BEAM = "The words after -- are Beam's options, such as --runner=DirectRunner"
_METAVARS = {int: "N", float: "X"}


def add_options(
    parser: argparse.ArgumentParser, cls: type[DataclassInstance], skip: Collection[str] = ()
) -> None:
    """Add one option for each field of a dataclass and of those within it, but for `skip`.

    A field without a default is required; a name of one letter gives `-k`; a truth value that is
    False by default gives `--name`, one that is True `--name` and `--no-name`; a tuple takes one
    or more words, and may be given again for more, or `nargs` of them. What is no number and no
    truth value is text.
    """
    for field, annotation in _leaves(cls, skip):
        dashes = "-" if len(field.name) == 1 else "--"
        flag = dashes + field.name.replace("_", "-")
        required = field.default is field.default_factory is dataclasses.MISSING
        default = None if required else _default(field)
        given: dict[str, Any] = {"default": default, "help": _help(field, default)}
        if annotation is bool:
            given["action"] = argparse.BooleanOptionalAction if default else "store_true"
            parser.add_argument(flag, **given)
            continue
        given["required"] = required
        several = typing.get_origin(annotation) is tuple
        kind = typing.get_args(annotation)[0] if several else annotation
        given["type"] = kind if kind in _METAVARS else str
        if several:
            given["nargs"] = "+"
        if "nargs" in field.metadata:
            given["nargs"] = field.metadata["nargs"]
        if given.get("nargs") == "+":
            given["action"], given["default"] = _Several, [*(default or ())]
        if "choices" in field.metadata:
            given["choices"] = tuple(field.metadata["choices"])
        else:
            usual = _METAVARS.get(given["type"], field.name.upper())
            given["metavar"] = field.metadata.get("metavar", usual)
        parser.add_argument(flag, **given)


class _Several(argparse._ExtendAction):
    """Words that take the place of the default; given again, they follow those given before."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        there = getattr(namespace, self.dest)
        before = [] if there is self.default else there
        setattr(namespace, self.dest, [*before, *values])


def from_options(cls: type[Settings], arguments: argparse.Namespace) -> Settings:
    """Return the settings that the arguments name; fields without an argument have their default.

    UserError for a value that the dataclass refuses.
    """
    given: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        annotation = hints[field.name]
        if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            given[field.name] = from_options(annotation, arguments)
        elif hasattr(arguments, field.name):
            value = getattr(arguments, field.name)
            given[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**given)


def names(text: str) -> tuple[str, ...]:
    """Read names that are separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def add_gin(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add --gin_file; without a `default` at least one is required."""
    text = "file of settings, by its path or its name below gin/; give it again for more"
    parser.add_argument(
        "--gin_file",
        action="append",
        required=default is None,
        metavar="FILE",
        help=text if default is None else f"{text} (default {default})",
    )
    parser.add_argument(
        "--gin-imports",
        action="append",
        metavar="MODULE",
        help="module, beside those of p5jax, t5x and seqio, that gin files may import, which runs"
        " it; give it again for more",
    )
    parser.epilog = "--gin.NAME=VALUE overrides a setting of the gin files."


def add_out(parser: argparse.ArgumentParser, more: str = "", metavar: str = "DIR") -> None:
    """Add the folder that a command writes; `more` says what happens to one that is there."""
    text = f"folder to write; {more}" if more else "folder to write"
    parser.add_argument("--out", required=True, metavar=metavar, help=text)


def add_mesh(parser: argparse.ArgumentParser) -> None:
    """Add the option that says how the devices share the work."""
    parser.add_argument(
        "--model-parallel",
        type=int,
        default=1,
        metavar="N",
        help="devices that share the parameters; the others share the batch (default 1)",
    )


def add_split(parser: argparse.ArgumentParser) -> None:
    """Add the split that is evaluated."""
    parser.add_argument(
        "--split",
        default="test",
        choices=HELD_OUT_SPLITS,
        help="split to evaluate (default test)",
    )


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Add the number of examples that are evaluated."""
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="evaluate at most N examples of each prompt, the same ones every time (default: all)",
    )


def _leaves(
    cls: type[DataclassInstance], skip: Collection[str]
) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """The fields of a dataclass and of those within it, each with its type."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        annotation = hints[field.name]
        if field.name in skip:
            continue
        if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            yield from _leaves(annotation, skip)
            continue
        yield field, _present(annotation)


def _present(annotation: Any) -> Any:
    """The type of a value that is given: T of `T | None`."""
    if not isinstance(annotation, types.UnionType):
        return annotation
    present = [each for each in annotation.__args__ if each is not types.NoneType]
    return present[0] if len(present) == 1 else str


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _help(field: dataclasses.Field[Any], default: Any) -> str:
    text = str(field.metadata.get("help", ""))
    if default not in (None, "", ()) and not isinstance(default, bool):
        text = f"{text} (default {default})".strip()
    return text.replace("%", "%%")
