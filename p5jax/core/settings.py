"""Settings: what the fields of a frozen dataclass may hold, checked where the settings are made."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import os
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from p5jax.core.errors import UserError, nearest, shown

LARGEST = 2**31 - 1  # of a whole number: what an int32 array can count
_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    types.NoneType: "None",
    Mapping: "a mapping",
    os.PathLike: "a path",
}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, of which an open end itself is none."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, number: float) -> bool:
        if number == self.low or number == self.high:
            return not (self.open_low if number == self.low else self.open_high)
        return self.low < number < self.high

    def __str__(self) -> str:
        low = f"more than {self.low:.12g}" if self.open_low else f"{self.low:.12g}"
        high = f"{'below ' if self.open_high else ''}{self.high:.12g}"
        if self.high == math.inf:
            return low if self.open_low else f"{low} or more"
        if self.low == -math.inf:
            return f"{high} at most"
        if self.open_low:
            return f"{low} and {'less than' if self.open_high else 'at most'} {self.high:.12g}"
        return f"{low} to {high}"


def at_least(low: float) -> Range:
    """Return the numbers from `low`."""
    return Range(low)


def above(low: float) -> Range:
    """Return the numbers greater than `low`."""
    return Range(low, open_low=True)


COUNT, SIZE = at_least(0), at_least(1)
SHARE = Range(0, 1)
BELOW_ONE = Range(0, 1, open_high=True)
PROPER_SHARE = Range(0, 1, open_low=True, open_high=True)
SEED = Range(0, 2**32 - 1)
Allowed = Range | Collection[str]


def check(settings: Any, **allowed: Allowed) -> None:
    """Check every field of a frozen dataclass by its type, and by what is `allowed` of it.

    Call it first in `__post_init__`. A number is finite and no truth value, and a whole number
    serves as any number; a list becomes the tuple that the field is, a path the text. A field
    whose name ends in "seed" is from 0 to 2**32 - 1. What is allowed of a tuple or a mapping is
    so of each of its values. UserError for the first field that holds anything else.
    """
    for name, hint in _hints(settings.__class__).items():
        where = f"{type(settings).__name__}.{name}"
        found = getattr(settings, name)
        each = allowed.pop(name, SEED if name.endswith("seed") else None)
        value = _checked(where, hint, found, each)
        if value is not found:
            object.__setattr__(settings, name, value)
    if allowed:
        raise TypeError(f"{type(settings).__name__} has no field {next(iter(allowed))}")


@functools.lru_cache
def _hints(cls: type) -> dict[str, Any]:
    """The type of each field."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _checked(where: str, hint: Any, value: Any, allowed: Allowed | None) -> Any:
    """Return `value` as the type it should have; UserError when it is no such thing."""
    for kind in _kinds(hint):
        origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
        if origin in (tuple, Sequence) and isinstance(value, list | tuple):
            if origin is tuple and ... not in arguments and len(value) != len(arguments):
                continue
            return tuple(_checked(where, arguments[0], each, allowed) for each in value)
        if origin is Mapping and isinstance(value, Mapping):
            of_key, of_value = arguments
            return {
                _checked(where, of_key, key, None): _checked(where, of_value, each, allowed)
                for key, each in value.items()
            }
        wanted = numbers.Integral if origin is int else numbers.Real
        if origin in (int, float) and isinstance(value, wanted) and not isinstance(value, bool):
            return _number(where, value, origin, allowed)
        if origin is str and isinstance(value, str | os.PathLike):
            return _text(where, os.fspath(value), allowed)
        if origin not in (int, float, str, tuple, Sequence, Mapping) and isinstance(value, origin):
            return value
    expected = " or ".join(map(_name, _kinds(hint)))
    raise UserError(f"{where}: found {shown(value)}, expected {expected}")


def _kinds(hint: Any) -> Iterable[Any]:
    """The types that a union is made of, or the one type."""
    return hint.__args__ if isinstance(hint, types.UnionType) else (hint,)


def _number(where: str, value: Any, kind: type, allowed: Allowed | None) -> float:
    limits = allowed if isinstance(allowed, Range) else Range()
    if kind is int and limits.high == math.inf:
        limits = dataclasses.replace(limits, high=LARGEST)
    try:
        number: float = kind(value)
    except OverflowError:  # a whole number that is too large for any float
        number = math.inf
    if kind is float and not math.isfinite(number):
        raise UserError(f"{where}: found {shown(value)}, expected a finite number")
    if number not in limits:
        expected = allowed if allowed is not None and number <= limits.high else limits
        raise UserError(f"{where}: found {shown(value)}, expected {expected}")
    return number


def _text(where: str, value: str, allowed: Allowed | None) -> str:
    if "\0" in value:
        raise UserError(f"{where}: found {shown(value)}, expected text without NUL")
    if allowed is not None and not isinstance(allowed, Range) and value not in allowed:
        *most, last = allowed
        known = f"{', '.join(most)} or {last}" if most else last
        raise UserError(f"{where}: found {shown(value)}, expected {known}{nearest(value, allowed)}")
    return value


def _name(kind: Any) -> str:
    """What messages call a type."""
    origin = typing.get_origin(kind) or kind
    if origin in (tuple, Sequence):
        members = typing.get_args(kind)
        many = "a list" if origin is Sequence or ... in members else f"{len(members)} values"
        return f"{many}, each {_name(members[0])}"
    return str(_NAMES.get(origin, origin.__name__))
