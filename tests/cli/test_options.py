"""Options derived from the fields of settings."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass, field

import pytest

from p5jax.cli.command import Parser
from p5jax.cli.options import add_options, from_options, names
from p5jax.core.errors import UserError


@dataclass(frozen=True)
class Inner:
    beam: int = field(default=5, metadata={"help": "width of the search"})
    rate: float = field(default=0.1, metadata={"help": "at most 10 % of it"})


@dataclass(frozen=True)
class Toy:
    family: str = field(metadata={"choices": ("direct", "rating")})
    inner: Inner = field(default_factory=Inner)
    user_place: str = "last"
    k: int = 10
    prompt: str | None = None
    exact: bool = False
    exclude_history: bool = True
    files: tuple[str, ...] = field(default=(), metadata={"metavar": "FILE"})
    told: tuple[int, ...] = (0, 3)
    hidden: int = 3

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"k: found {self.k}, expected 1 or more")


def parsed(*words: str) -> Toy:
    parser = Parser(prog="toy")
    add_options(parser, Toy, skip=("hidden",))
    return from_options(Toy, parser.parse_args(words))


def help_text(cls: type = Toy) -> str:
    parser = ArgumentParser(prog="toy")
    add_options(parser, cls)
    return parser.format_help()


def test_without_options_settings_are_the_dataclass_s_own():
    assert parsed("--family", "direct") == Toy("direct")


def test_several_words_take_the_place_of_the_default_and_may_follow():
    assert parsed("--family", "direct").told == (0, 3)
    assert parsed("--family", "direct", "--told", "5").told == (5,)
    assert parsed("--family", "direct", "--told", "0", "1", "--told", "3").told == (0, 1, 3)
    assert parsed("--family", "direct").told == (0, 3)  # the default was not changed


def test_every_field_has_its_option():
    words = ["--family", "rating", "--beam", "7", "--rate", "2", "--user-place", "first", "-k", "3"]
    words += ["--prompt", "2-3", "--exact", "--no-exclude-history", "--files", "a", "b"]
    expected = Toy("rating", Inner(7, 2.0), "first", 3, "2-3", True, False, ("a", "b"))
    assert parsed(*words) == expected


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "required: --family"),
        (["--family", "direkt"], "invalid choice: 'direkt'"),
        (["--family", "direct", "--beam", "wide"], "--beam: invalid int value: 'wide'"),
        (["--family", "direct", "--hidden", "4"], "unrecognized arguments: --hidden 4"),
        (["--family", "direct", "-k", "0"], "k: found 0, expected 1 or more"),
    ],
)
def test_what_is_wrong_is_one_line(words, text):
    with pytest.raises(UserError) as error:
        parsed(*words)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_help_shows_what_the_metadata_says_and_the_defaults():
    text = " ".join(help_text().split())
    assert "--beam N width of the search (default 5)" in text
    assert "--rate X at most 10 % of it (default 0.1)" in text
    assert "--family {direct,rating}" in text
    assert "--exclude-history, --no-exclude-history" in text
    assert "--files FILE [FILE ...]" in text
    assert "--user-place USER_PLACE (default last)" in text
    assert "None" not in text


def test_names_are_separated_by_commas():
    assert names("a, b,,c") == ("a", "b", "c")
    assert names("") == ()
