"""Values against kinds: what fits passes, what does not is named with its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest

from p5jax.core.errors import UserError
from p5jax.core.kinds import Checksum, Count, FileName, built, refuse_other
from p5jax.core.settings import SIZE, check


@dataclass(frozen=True)
class Sizes:
    width: int
    rates: tuple[float, ...] = ()
    shares: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        check(self, width=SIZE)


class Manifest(TypedDict):
    name: str
    sizes: Sizes
    seed: NotRequired[int]


GOOD = {"name": "a", "sizes": {"width": 3, "rates": [1, 0.5]}}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, -(2**63)),
        (float, 3),
        (str, "é\U0001f600"),
        (None, None),
        (int | None, None),
        (list[int], []),
        (tuple[str, int], ["a", 1]),
        (tuple[int, ...], [1, 2, 3]),
        (dict[str, list[float | None]], {"a": [1, None]}),
        (Literal["a", 1], 1),
        (Annotated[int, range(3)], 2),
        (FileName, "users-3.parquet"),
        (Checksum, "0" * 64),
        (Manifest, GOOD),
        (Manifest, {**GOOD, "seed": 3}),
        (Any, {"a": [1, "b", None, 2.5, True]}),
        (object, "\ud800"),
    ],
)
def test_what_is_of_a_kind_passes(kind, value):
    refuse_other("file", value, kind)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (int, True, "found True, expected a whole number"),
        (int, 1.0, "found 1.0, expected a whole number"),
        (int, 2**63, "found 9223372036854775808, expected a number of at most 64 bits"),
        (float, float("nan"), "found nan, expected a number"),
        (float, 10**400, "found 1000000"),
        (float, "1", "found '1', expected a number"),
        (bool, 1, "found 1, expected true or false"),
        (str, "\ud800", "found '\\ud800', expected text without lone surrogates"),
        (str | None, 1, "found 1, expected text or null"),
        (list[int], [1, "2"], "1: found '2', expected a whole number"),
        (tuple[str, int], ["a"], "found ['a'], expected 2 values"),
        (dict[str, int], {"a": None}, "a: found None, expected a whole number"),
        (Any, {"a": [{"\udc00": 1}]}, "a: 0: found '\\udc00', expected text without"),
        (Literal["a", 1], True, "found True, expected 'a' or 1"),
        (Annotated[int, range(3)], 3, "found 3, expected 0 to 2"),
        (Count, -1, "found -1, expected 0 to "),
        (FileName, "../../etc/passwd", "found '../../etc/passwd', expected text of the form"),
        (FileName, "a\0b", "found 'a\\x00b'"),
        (Manifest, [], "found [], expected an object"),
        (Manifest, {"name": "a"}, "found no sizes, expected an object"),
        (Manifest, {**GOOD, "nome": 1}, "found key 'nome'; did you mean name?"),
        (Manifest, {**GOOD, "sizes": {}}, "sizes: found no width, expected a whole number"),
        (Manifest, {**GOOD, "sizes": {"width": 0}}, "sizes: Sizes.width: found 0, expected 1 or"),
        (Manifest, {**GOOD, "sizes": {"width": 1, "rates": [1, "x"]}}, "sizes: rates: 1: found"),
        (Manifest, {**GOOD, "sizes": {"width": 1, "w": 1}}, "sizes: found key 'w'"),
        (Manifest, {**GOOD, "sizes": {"width": 1, "shares": {"a": None}}}, "sizes: shares: a: "),
    ],
)
def test_what_is_not_is_named(kind, value, message):
    with pytest.raises(UserError) as caught:
        refuse_other("file", value, kind)
    assert str(caught.value).startswith(f"file: {message}")
    assert str(caught.value).isprintable()


def test_a_dataclass_is_built_with_tuples():
    made = built("file", Sizes, {"width": 3, "rates": [1, 0.5]})
    assert made == Sizes(3, (1, 0.5))
    with pytest.raises(UserError, match="^file: Sizes.width: found 0, expected 1 or more$"):
        built("file", Sizes, {"width": 0})


def test_a_number_too_long_to_show():
    with pytest.raises(UserError, match="found a int that is too large to show, expected a number"):
        refuse_other("file", 16**5000, int)
