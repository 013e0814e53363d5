"""Amazon review and metadata files of 2014, 2018 and 2023 -> RawData."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from p5jax.core.threads import in_threads
from p5jax.data.feature_words import read_feature_words
from p5jax.data.formats import MEMORY, AmazonOptions, file_path, file_paths
from p5jax.data.readers.amazon_columns import in_columns
from p5jax.data.readers.amazon_reviews import LARGEST, NEW, Reviews, key_in
from p5jax.data.readers.cells import BadLine, Matches, filled, known
from p5jax.data.readers.json_lines import Record, literal_record
from p5jax.data.readers.lines import BLOCK, LineErrors, read_blocks, read_lines, with_progress
from p5jax.data.readers.page_text import is_code, plain
from p5jax.data.readers.raw import ITEM_COLUMNS, RawData, describe_source, empty_columns

ITEM_KEY = re.compile(r"""["'](?:parent_)?asin["']\s*:\s*["']([^"']+)["']""")
FILE_NAME = re.compile(r"^(?:reviews_|meta_)?(.+?)(?:_\d+)?$")  # reviews_Beauty_5 -> Beauty
STARS = (1.0, 5.0)  # of every version
LONGEST_PRICE = 24  # some 2018 price fields hold a page of CSS


def read(options: AmazonOptions) -> RawData:
    """Read the files that the options of `p5jax.prepare` name."""
    raw = read_amazon(
        file_paths(options.reviews),
        file_paths(options.metadata),
        rating_scale=options.rating_scale or STARS,
        skip_bad_lines=options.skip_bad_lines,
        memory=options.memory,
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
    memory: float = MEMORY,
) -> RawData:
    """Read review files (JSON lines) and metadata files (JSON or Python literals), plain or .gz.

    The version shows in the field names of each line: reviewerID (2014, 2018) or user_id (2023,
    times in milliseconds). Metadata of items without a review is ignored. rating_scale: the lowest
    and the highest rating that a line may have. memory: GiB that texts may take.
    UserError names file and line of what is malformed, unless `skip_bad_lines` counts it.
    """
    errors = LineErrors(skip_bad_lines)
    collected = Reviews(rating_scale, memory)
    for path in reviews:
        columns_of = functools.partial(in_columns, rating_scale, path)
        blocks = read_blocks(path, "a JSON review a line")
        blocks = with_progress(blocks, path.name, "KiB", BLOCK >> 10)
        for _, pieces in in_threads(columns_of, blocks):
            for piece, found in pieces:
                if found is None or not collected.join(found):
                    collected.read(path, piece, errors)
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
    index = matches.index(key_in(record, field))
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
