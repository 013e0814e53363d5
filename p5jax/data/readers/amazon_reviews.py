"""Amazon's reviews, line by line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p5jax.core.errors import shown
from p5jax.core.kinds import is_text
from p5jax.data.readers.cells import BadLine, is_missing, listed
from p5jax.data.readers.json_lines import Record, exact, json_record
from p5jax.data.readers.lines import Block, LineErrors
from p5jax.data.readers.page_text import plain
from p5jax.data.readers.raw import RowCollector, Rows

LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Fields:
    """The names of the fields in one version of the review files."""

    user: str
    item: tuple[str, ...]  # the first that is present counts
    rating: str
    time: str
    headline: str
    text: str
    name: str | None


# 2018 has the fields of 2014 and more.
OLD = Fields(
    "reviewerID", ("asin",), "overall", "unixReviewTime", "summary", "reviewText", "reviewerName"
)
NEW = Fields("user_id", ("parent_asin", "asin"), "rating", "timestamp", "title", "text", None)


@dataclass(frozen=True)
class Found:
    """What is read of some reviews: their users' names, and the first line of a version."""

    rows: Rows
    names: list[str | None]
    versions: dict[str, tuple[Path, int]]


class Reviews:
    """Collects reviews of one version, and the names of their users."""

    def __init__(self, scale: Sequence[float], memory: float) -> None:
        """scale: the lowest and the highest rating; memory: GiB that texts may take."""
        self.scale = scale
        self.rows = RowCollector(memory=memory)
        self.names: list[str | None] = []
        self.versions: dict[str, tuple[Path, int]] = {}

    def join(self, found: Found) -> bool:
        """Add what was read apart; False where it does not go with what is there."""
        if self.versions and not found.versions.keys() <= self.versions.keys():
            return False
        users = self.rows.extend(found.rows)
        if users is None:
            return False
        self.versions = found.versions | self.versions
        names = self.names
        names += [None] * (len(self.rows.users) - len(names))
        for user, name in zip(users, found.names, strict=True):
            if names[user] is None:
                names[user] = name
        return True

    def read(self, path: Path, block: Block, errors: LineErrors) -> None:
        """Add the reviews of a block's lines; those that are malformed go to `errors`."""
        for number, line in block.lines(path, errors):
            try:
                record = json_record(line)
                fields = NEW if NEW.user in record and OLD.user not in record else OLD
                if fields.time in record:
                    record[fields.time] = exact(record, fields.time, line)
                self._add(record, fields, (path, number))
            except BadLine as problem:
                errors.report(path, number, problem)

    def _add(self, record: Record, fields: Fields, place: tuple[Path, int]) -> None:
        user = key_in(record, fields.user)
        item = key_in(record, next((f for f in fields.item if f in record), fields.item[-1]))
        rating = _number(record, fields.rating)
        low, high = self.scale
        if not low <= rating <= high:
            raise BadLine(
                f"field {fields.rating!r}: found {rating:g}, expected {low:g} to {high:g}"
            )
        if self.versions and fields.user not in self.versions:
            (other, (path, number)) = next(iter(self.versions.items()))
            raise BadLine(
                f"found field {fields.user!r} but {path}:{number} has {other!r}: expected reviews"
                " of one Amazon version"
            )
        headline, text = _text(record, fields.headline), _text(record, fields.text)
        name = _text(record, fields.name) if fields.name else None
        # Last, for what it learns of the column must not come from a line that is refused.
        time = self.rows.times.parse(_required(record, fields.time), fields.time)
        self.versions.setdefault(fields.user, place)
        self._name(self.rows.add(user, item, rating, time, headline, text), name)

    def _name(self, user: int, name: str | None) -> None:
        """Note the name of a user; the first one stays."""
        if user == len(self.names):
            self.names.append(name)
        elif self.names[user] is None:
            self.names[user] = name


def key_in(record: Record, field: str) -> str:
    value = _required(record, field)
    if type(value) is int or (type(value) is float and value.is_integer()):
        return str(int(value))
    key = value.strip() if isinstance(value, str) else ""
    if is_missing(key) or not is_text(key):
        raise BadLine(f"field {field!r}: found {shown(value)}, expected a non-empty string")
    return key


def _number(record: Record, field: str) -> float:
    value = _required(record, field)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise BadLine(f"field {field!r}: found {shown(value)}, expected a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise BadLine(f"field {field!r}: found {shown(value)}, expected a number")
    return value


def _required(record: Record, field: str) -> object:
    if field not in record:
        raise BadLine(
            f"field {field!r} is missing, found {listed([*map(str, record)]) or 'no field'}"
        )
    return record[field]


def _text(record: Record, field: str) -> str | None:
    value = record.get(field)
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadLine(f"field {field!r}: found {shown(value)}, expected a string")
    return plain(value)
