"""JSON and TOML documents, read whole and checked before they are used."""

from __future__ import annotations

import codecs
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from p5jax.core.errors import UserError, shown
from p5jax.core.kinds import fits, refuse_other

LARGEST = 1 << 26  # bytes; a parsed document takes some twenty times as much memory
_DEEPEST = 50  # levels
_ENDLESS = "values within values without end"


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"the number {name}, which JSON does not have")


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {shown(twice)} twice")
    return found


_document = json.JSONDecoder(parse_constant=_no_number, object_pairs_hook=_without_repeats).decode


def parse_json(text: str) -> Any:
    """Return what a JSON text from elsewhere says; ValueError, in one line, when it says nothing.

    NaN, keys that are there twice and lone surrogates (core.kinds.is_text tells) are passed on.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(_ENDLESS) from None


def read_json(
    path: str | os.PathLike[str], kind: Any, expected: str, largest: int = LARGEST
) -> Any:
    """Return a JSON document of a kind (see core.kinds).

    expected: what messages call it, "a profile schema". UserError when it is absent, damaged,
    something else, or has a key twice.
    """
    return json_value(path, read_text(path, expected, largest), kind, expected)


def json_value(where: object, text: str, kind: Any, expected: str) -> Any:
    """Return what a JSON text of a kind says; UserError as `read_json`, beginning with `where`."""
    value = _parsed(where, text, _document, expected)
    _refuse_other(where, value, kind, expected)
    return value


def read_toml(path: str | os.PathLike[str], expected: str) -> tuple[dict[str, Any], str]:
    """Return a TOML document and its text; UserError when it is absent or damaged."""
    return _read(path, expected, tomllib.loads, LARGEST >> 4)  # its parser is slow


def read_json_lines(path: str | os.PathLike[str], kind: Any, expected: str) -> list[Any]:
    """Return a file of JSON values of a kind, one a line; none for a file that is absent.

    A last line that a killed process left half written is passed over. UserError for any other
    line that is damaged or something else.
    """
    path = Path(path)
    if not path.is_file():
        return []
    values = []
    for number, line in enumerate(read_lines(path, expected), 1):
        where = f"{path}:{number}"
        try:
            values.append(_parsed(where, line, _document, expected))
        except UserError:
            if not line.endswith("\n"):
                break
            raise
        _refuse_other(where, values[-1], kind, expected)
    return values


def read_lines(path: Path, expected: str) -> Iterator[str]:
    """Yield a UTF-8 file's lines with their ends; of a last one cut within a character, the rest.

    A limit is on each line, so a file of any number of lines is read.
    """
    number = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(LARGEST + 1):
                number += 1
                if len(line) > LARGEST:
                    raise ValueError(f"more than {LARGEST} bytes")
                text, _ = codecs.utf_8_decode(line, "strict", line.endswith(b"\n"))
                yield text
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected {expected}") from error
    except ValueError as error:  # not UTF-8; too long
        raise UserError(f"{path}:{number}: found {error}; expected {expected}") from error


def _read(
    path: str | os.PathLike[str], expected: str, parse: Callable[[str], Any], largest: int
) -> tuple[Any, str]:
    text = read_text(path, expected, largest)
    return _parsed(path, text, parse, expected), text


def read_text(path: str | os.PathLike[str], expected: str, largest: int = LARGEST) -> str:
    """Return a UTF-8 file's text, without a byte-order mark; UserError when it is none."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(largest + 1)
        if len(content) > largest:
            raise ValueError(f"more than {largest} bytes")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected {expected}") from error
    except ValueError as error:  # not UTF-8; too large; a path with a NUL
        raise UserError(f"{path}: found {error}; expected {expected}") from error


def _parsed(where: object, text: str, parse: Callable[[str], Any], expected: str) -> Any:
    try:
        value = parse(text)
        _refuse_depth(value)
    except (ValueError, RecursionError) as error:
        cause = error if isinstance(error, ValueError) else _ENDLESS
        raise UserError(f"{where}: found {cause}; expected {expected}") from error
    return value


def _refuse_other(where: object, value: Any, kind: Any, expected: str) -> None:
    if not fits(value, kind):
        raise UserError(f"{where}: found {shown(value)}, expected {expected}")
    refuse_other(where, value, kind)


def _refuse_depth(value: Any) -> None:
    level, depth = [value] if isinstance(value, dict | list) else [], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise ValueError(f"values within values, more than {_DEEPEST} levels deep")
        inner: list[Any] = []
        for each in level:
            inner += each.values() if isinstance(each, dict) else each
        level = [each for each in inner if isinstance(each, dict | list)]
