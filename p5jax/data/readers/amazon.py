"""Amazon review and metadata files of 2014, 2018 and 2023 -> RawData."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from p5jax.core.errors import UserError, shown
from p5jax.core.kinds import is_text
from p5jax.core.threads import in_threads
from p5jax.data.feature_words import read_feature_words
from p5jax.data.formats import AmazonOptions, file_path, file_paths
from p5jax.data.readers.cells import (
    BadLine,
    Matches,
    filled,
    is_missing,
    known,
    listed,
)
from p5jax.data.readers.json_lines import Record, exact, json_record, literal_record
from p5jax.data.readers.lines import (
    BLOCK,
    Block,
    LineErrors,
    read_blocks,
    read_lines,
    with_progress,
)
from p5jax.data.readers.page_text import is_code, plain
from p5jax.data.readers.raw import (
    ITEM_COLUMNS,
    RawData,
    RowCollector,
    Rows,
    describe_source,
    empty_columns,
)

ITEM_KEY = re.compile(r"""["'](?:parent_)?asin["']\s*:\s*["']([^"']+)["']""")
FILE_NAME = re.compile(r"^(?:reviews_|meta_)?(.+?)(?:_\d+)?$")  # reviews_Beauty_5 -> Beauty
STARS = (1.0, 5.0)  # of every version
LARGEST = sys.float_info.max
LONGEST_PRICE = 24  # some 2018 price fields hold a page of CSS


@dataclass(frozen=True)
class _Fields:
    """The names of the fields in one version of the review files."""

    user: str
    item: tuple[str, ...]  # the first that is present counts
    rating: str
    time: str
    headline: str
    text: str
    name: str | None


# 2018 has the fields of 2014 and more.
OLD = _Fields(
    "reviewerID", ("asin",), "overall", "unixReviewTime", "summary", "reviewText", "reviewerName"
)
NEW = _Fields("user_id", ("parent_asin", "asin"), "rating", "timestamp", "title", "text", None)


def read(options: AmazonOptions) -> RawData:
    """Read the files that the options of `p5jax.prepare` name."""
    raw = read_amazon(
        file_paths(options.reviews),
        file_paths(options.metadata),
        rating_scale=options.rating_scale or STARS,
        skip_bad_lines=options.skip_bad_lines,
    )
    words = file_path(options.feature_words)
    if words is None:
        return raw
    sources = [*raw.sources, describe_source(words)]
    return replace(raw, feature_words=read_feature_words(words), sources=sources)


def read_amazon(
    reviews: Sequence[Path],
    metadata: Sequence[Path] = (),
    *,
    name: str | None = None,
    rating_scale: Sequence[float] = STARS,
    skip_bad_lines: bool = False,
) -> RawData:
    """Read review files (JSON lines) and metadata files (JSON or Python literals), plain or .gz.

    The version shows in the field names of each line: reviewerID (2014, 2018) or user_id (2023,
    times in milliseconds). Metadata of items without a review is ignored. rating_scale: the lowest
    and the highest rating that a line may have.
    UserError names file and line of what is malformed, unless `skip_bad_lines` counts it.
    """
    errors = LineErrors(skip_bad_lines)
    collected = _Reviews(rating_scale)
    for path in reviews:
        read_apart = functools.partial(_read_apart, rating_scale, path)
        blocks = read_blocks(path, "a JSON review a line")
        blocks = with_progress(blocks, path.name, "KiB", BLOCK >> 10)
        for block, found in in_threads(read_apart, blocks):
            if found is None or not collected.join(found):
                collected.read(path, block, errors)
    rows, names, versions = collected.rows, collected.names, collected.versions
    understood = {"columns": f"fields of Amazon {' and '.join(map(_years, versions))}"}
    columns = empty_columns(ITEM_COLUMNS, len(rows.items))
    matches, code = Matches(rows.items, "items"), list[str]()
    for path in metadata:
        for number, line in read_lines(path, errors, "an item's metadata a line"):
            try:
                _add_metadata(columns, matches, code, line)
            except BadLine as problem:
                errors.report(path, number, problem)
    if metadata and len(rows):
        files = ", ".join(path.name for path in metadata)
        told = f"; left out as code of a page: {len(code):,}" if code else ""
        understood["items"] = matches.understood(files, filled(columns) + told)
    rows.times.declared = "millisecond" if NEW.user in versions else "second"
    return rows.raw_data(
        name=name or _name_of(reviews[0]),
        format="amazon",
        user_columns={"name": names},
        item_columns=columns,
        rating_scale=STARS,
        sources=[describe_source(path) for path in (*reviews, *metadata)],
        errors=errors,
        understood=understood,
    )


def _years(user_field: str) -> str:
    return "2023" if user_field == NEW.user else "2014 or 2018"


def _name_of(path: Path) -> str:
    match = FILE_NAME.match(path.name.split(".", 1)[0])
    return match.group(1) if match else path.name


@dataclass(frozen=True)
class _Found:
    """What a process has read of reviews: the users' names, and the first line of a version."""

    rows: Rows
    names: list[str | None]
    versions: dict[str, tuple[Path, int]]


class _Reviews:
    """Collects reviews of one version, and the names of their users."""

    def __init__(self, scale: Sequence[float]) -> None:
        """scale: the lowest and the highest rating."""
        self.scale = scale
        self.rows = RowCollector()
        self.names: list[str | None] = []
        self.versions: dict[str, tuple[Path, int]] = {}

    def join(self, found: _Found) -> bool:
        """Add what a process has read; False where it does not go with what is there."""
        if self.versions and not found.versions.keys() <= self.versions.keys():
            return False
        users = self.rows.extend(found.rows)
        if users is None:
            return False
        self.versions = found.versions | self.versions
        for user, name in zip(users, found.names, strict=True):
            self._name(user, name)
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

    def _add(self, record: Record, fields: _Fields, place: tuple[Path, int]) -> None:
        user = _key(record, fields.user)
        item = _key(record, next((f for f in fields.item if f in record), fields.item[-1]))
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


def _read_apart(scale: Sequence[float], path: Path, block: Block) -> _Found | None:
    """Return the reviews of a block; None where what is before it must be known to read it.

    That is so where a line is malformed, too: it is read again, and reported, in its turn.
    """
    reviews = _Reviews(scale)
    try:
        reviews.read(path, block, LineErrors(skip=False))
    except UserError:
        return None
    rows = reviews.rows.rows()
    return None if rows is None else _Found(rows, reviews.names, reviews.versions)


def _key(record: Record, field: str) -> str:
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


def _add_metadata(
    columns: dict[str, list[str | None]], matches: Matches, code: list[str], line: str
) -> None:
    """Fill an item's columns from one metadata line; the first value of each column stays.

    Values that are a page's code are none and are added to `code`.
    """
    found = ITEM_KEY.findall(line)
    if found and not any(key in matches.keys for key in found):
        matches.miss(found[-1])
        return  # most items have no review here and need not be parsed
    record = literal_record(line, "an item's metadata")
    field = next((f for f in NEW.item if f in record), "asin")
    index = matches.index(_key(record, field))
    if index is None:
        return
    readers: dict[str, Callable[[Record], str | None]] = {
        "title": lambda r: _line(r.get("title"), code),
        "brand": lambda r: _brand(r.get("brand"), code) or _brand(r.get("store"), code),
        "categories": lambda r: _categories(r, code),
        "price": lambda r: _price(r, code),
    }
    for name, read in readers.items():
        columns[name][index] = columns[name][index] or read(record)


def _line(value: object, code: list[str]) -> str | None:
    """Return the text of a field on one line; None for a missing one, and for a page's code."""
    text = plain(value) if isinstance(value, str) else None
    if text is not None and is_code(text):
        code.append(text)
        return None
    return None if text is None else known(text)


def _brand(value: object, code: list[str]) -> str | None:
    """Return a brand; a page says "by" on the line before it."""
    before, _, rest = value.strip().partition("\n") if isinstance(value, str) else ("", "", "")
    return _line(rest if before.strip().lower() == "by" else value, code)


def _categories(record: Record, code: list[str]) -> str | None:
    """Return the category path joined by " | " (2014: the first of several paths)."""
    path = record.get("categories") or record.get("category")
    if isinstance(path, list) and path and isinstance(path[0], list):
        path = path[0]
    if not isinstance(path, list):
        return _line(path, code)
    parts = [part for part in (_line(each, code) for each in path) if part]
    return " | ".join(dict.fromkeys(parts)) or None


def _price(record: Record, code: list[str]) -> str | None:
    value = record.get("price")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.2f}" if abs(value) <= LARGEST else None
    price = _line(value, code)
    has_number = price is not None and any(c.isdigit() for c in price)
    return price if has_number and len(price or "") <= LONGEST_PRICE else None
