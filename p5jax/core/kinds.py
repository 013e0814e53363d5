"""Kinds of JSON values, written as Python types, and the check that a value is of one.

A kind is None, bool, int (of 64 bits), float (finite), str (that UTF-8 has), Any, a union, Literal,
`list[K]`, `tuple[K, ...]`, `dict[str, K]`, Annotated[K, a range or a compiled pattern], a TypedDict
(no other keys, and all but those NotRequired), a dataclass, whose own checks count, or object,
whose values are not looked at.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn, NotRequired, TypeVar

from p5jax.core.errors import UserError, nearest, shown

Made = TypeVar("Made")
# Kinds that several documents share.
Count = Annotated[int, range(1 << 53)]
Checksum = Annotated[str, re.compile("[0-9a-f]{64}")]
FileName = Annotated[str, re.compile(r"(?!\.)[^/\\\x00-\x1f]{1,255}")]

_WORDS: dict[Any, str] = {
    None: "null",
    types.NoneType: "null",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "an object",
    list: "a list",
    Any: "a value",
}


def refuse_other(where: object, value: Any, kind: Any) -> None:
    """Raise UserError "WHERE: FIELD: found …, expected …" unless `value` is of the kind."""
    try:
        _check(value, kind, "")
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def built(where: object, cls: type[Made], value: Mapping[str, Any]) -> Made:
    """Return a dataclass filled from a JSON object; UserError as `refuse_other`."""
    refuse_other(where, value, cls)
    return _build(cls, value)


def is_text(value: str) -> bool:
    """Whether UTF-8 has all of a text: it has no lone surrogates, which JSON and Python do."""
    return value.isascii() or not any("\ud800" <= each <= "\udfff" for each in value)


def _check(value: Any, kind: Any, place: str) -> None:
    """Raise ValueError unless a value is of a kind; place: "field: field: ", where it stands."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is object:
        return
    if origin is Annotated:
        _check(value, inner[0], place)
        for limit in inner[1:]:
            if isinstance(limit, range) and value not in limit:
                _refuse(value, f"{limit.start} to {limit.stop - 1}", place)
            if isinstance(limit, re.Pattern) and not limit.fullmatch(value):
                _refuse(value, f"text of the form {limit.pattern}", place)
    elif not fits(value, kind):
        _refuse(value, _words(kind), place)
    elif origin in (types.UnionType, typing.Union):
        _check(value, next(each for each in inner if fits(value, each)), place)
    elif typing.is_typeddict(kind) or dataclasses.is_dataclass(kind):
        _check_fields(value, kind, place)
    elif isinstance(value, dict):
        for key, each in value.items():
            _check(key, inner[0] if inner else str, place)
            _check(each, inner[1] if inner else Any, f"{place}{key}: ")
    elif isinstance(value, list):
        kinds = inner or (Any, ...)
        if origin is not tuple or ... in kinds:
            kinds = (kinds[0],) * len(value)
        if len(kinds) != len(value):
            _refuse(value, f"{len(kinds)} values", place)
        for number, (each, its) in enumerate(zip(value, kinds, strict=True)):
            _check(each, its, f"{place}{number}: ")
    elif isinstance(value, str) and not is_text(value):
        _refuse(value, "text without lone surrogates", place)
    elif type(value) is int and not -(2**63) <= value < 2**63:
        _refuse(value, "a number of at most 64 bits", place)


def _check_fields(value: dict[str, Any], kind: Any, place: str) -> None:
    """Check the keys and values of an object against a TypedDict or a dataclass."""
    hints = typing.get_type_hints(kind, include_extras=True)
    optional = {name for name, hint in hints.items() if typing.get_origin(hint) is NotRequired}
    if dataclasses.is_dataclass(kind):
        optional = {
            field.name
            for field in dataclasses.fields(kind)
            if not field.default is field.default_factory is dataclasses.MISSING
        }
    for name in value:
        if name not in hints:
            raise ValueError(f"{place}found key {shown(name)}{nearest(name, hints)}")
    for name, hint in hints.items():
        its = typing.get_args(hint)[0] if typing.get_origin(hint) is NotRequired else hint
        if name in value:
            _check(value[name], its, f"{place}{name}: ")
        elif name not in optional:
            raise ValueError(f"{place}found no {name}, expected {_words(its)}")
    if dataclasses.is_dataclass(kind):
        try:
            _build(typing.cast(type, kind), value)
        except UserError as error:
            raise ValueError(f"{place}{error}") from None


def _build(cls: type[Made], value: Mapping[str, Any]) -> Made:
    hints = typing.get_type_hints(cls)
    return cls(**{name: _python(each, hints[name]) for name, each in value.items()})


def _python(value: Any, kind: Any) -> Any:
    """Return a JSON value as a dataclass has it: lists as tuples, objects as dataclasses."""
    if isinstance(value, list):
        inner = (typing.get_args(kind) or (Any,))[0]
        return tuple(_python(each, inner) for each in value)
    if isinstance(value, dict) and dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value)
    return value


def _plain(kind: Any) -> Any:
    """The type that a kind's JSON values have."""
    plain = typing.get_origin(kind) or kind
    if typing.is_typeddict(plain) or dataclasses.is_dataclass(plain):
        return dict
    return {tuple: list, Mapping: dict}.get(plain, plain)


def fits(value: Any, kind: Any) -> bool:
    """Return whether a value's own type is a kind's, whatever is within it."""
    plain, inner = _plain(kind), typing.get_args(kind)
    if plain in (types.UnionType, typing.Union):
        return any(fits(value, each) for each in inner)
    if plain is Annotated:
        return fits(value, inner[0])
    if plain is Literal:
        return any(value == each and type(value) is type(each) for each in inner)
    if plain is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return plain in (Any, object) or type(value) is (types.NoneType if plain is None else plain)


def _words(kind: Any) -> str:
    plain, inner = _plain(kind), typing.get_args(kind)
    if plain in (types.UnionType, typing.Union):
        return " or ".join(map(_words, inner))
    if plain is Literal:
        return " or ".join(map(repr, inner))
    return _words(inner[0]) if plain is Annotated else _WORDS.get(plain, str(plain))


def _refuse(value: Any, expected: str, place: str) -> NoReturn:
    raise ValueError(f"{place}found {shown(value)}, expected {expected}")
