"""What a request's body holds: a dataclass for each, checked as it is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from p5jax.core.documents import json_value
from p5jax.core.errors import UserError
from p5jax.data.dataset import Key
from p5jax.serving.question import Question

MOST_ITEMS = {"history": 200, "candidates": 1000, "exclude": 1000, "items": 100}
LONGEST_TEXT, LONGEST_KEY = 4000, 1000  # characters
Body = TypeVar("Body")


@dataclass(frozen=True)
class Ask(Question):
    """A question with what decides how it is answered; see serving.settings.BulkConfig.

    run: the name of one of the runs that are served, "" for the first.
    """

    prompts: tuple[str, ...] = ()
    memory: bool = True
    run: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most in MOST_ITEMS.items():
            values = getattr(self, name, None) or ()
            if len(values) > most:
                raise UserError(f"{name}: found {len(values)} items, expected {most} at most")
            refuse_long(name, values)
        refuse_long("user", [self.user])
        refuse_long("prompts", self.prompts)
        refuse_long("run", [self.run])


@dataclass(frozen=True)
class Recommend(Ask):
    """The body of /v1/recommend."""

    k: int = 10
    exclude_history: bool = True


@dataclass(frozen=True)
class Score(Ask):
    """The body of /v1/score."""

    items: tuple[Key, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.items:
            raise UserError("items: found no item, expected one or more")


@dataclass(frozen=True)
class Explain(Ask):
    """The body of /v1/explain: without an item only what is read and searched is shown.

    feature: the word that the explanation names, for prompts that do.
    """

    item: Key | None = None
    feature: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_long("item", [self.item])
        refuse_long("feature", [self.feature])


@dataclass(frozen=True)
class Generate:
    """The body of /v1/generate."""

    text: str
    run: str = ""

    def __post_init__(self) -> None:
        refuse_long("text", [self.text], LONGEST_TEXT)
        refuse_long("run", [self.run])


# The last part of a route -> the body it takes, and what it answers.
BODIES: Mapping[str, tuple[type[Any], str]] = {
    "recommend": (Recommend, "The most probable next items of a user or a history"),
    "score": (Score, "Log-probabilities and ranks of items"),
    "explain": (Explain, "What the model reads, how ids are searched, and why an item fits"),
    "generate": (Generate, "The model's answer to any text"),
}
_FIELDS = {field.name for kind, _ in BODIES.values() for field in fields(kind)}


def refuse_long(name: str, values: Any, most: int = LONGEST_KEY) -> None:
    """Raise UserError for a text of more than `most` characters."""
    longest = max((len(value) for value in values if isinstance(value, str)), default=0)
    if longest > most:
        raise UserError(f"{name}: found {longest} characters, expected {most} at most")


def read_body(kind: type[Body], body: bytes) -> Body:
    """Return the dataclass that a JSON body fills; UserError when it is none."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"body: found {error}, expected JSON in UTF-8") from None
    value = json_value("body", text, kind, "a JSON object")
    return kind(**{name: _tuples(each) for name, each in value.items()})


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def as_error(message: str, datasets: Iterable[str] = ()) -> dict[str, Any]:
    """Return a message as JSON, with the field, what was found and expected where it says so.

    datasets: paths that are not told to those who ask.
    """
    message = message.removeprefix("body: ")
    for path in datasets:
        message = message.replace(f"{path}: ", "")
    told: dict[str, str] = {}
    first = message.partition(":")[0]
    if first in _FIELDS:
        told["field"] = first
    found, sign, expected = message.partition("found ")[2].rpartition(", expected ")
    if sign:
        told |= {"found": found, "expected": expected}
    return {"error": {"message": message, **told}}
