"""Raw interactions as columns: what every reader returns, and the line reading they share."""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
import time
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from p5jax.core.errors import UserError

ITEM_COLUMNS = ("title", "brand", "categories", "price")
TEXT = pa.large_string()  # 64-bit offsets: the review text of a category can pass 2 GiB
CHUNK = 50_000  # texts held as Python strings before they move to Arrow
PROGRESS_SECONDS = 5.0
PROGRESS_STEP = 4096  # units between two looks at the clock
WARNING = "warning: "  # begins a sentence of `RawData.understood` that a person must look at
LATEST = 2**62

Item = TypeVar("Item")


@dataclass(frozen=True)
class RawData:
    """Interactions in source order, N rows over U users and I items, before any filtering.

    user, item: int32 [N], numbered by first appearance; rating: float32 [N], NaN where the source
    has none; timestamp: int64 [N] in `time_unit`; headline, text: Arrow strings [N].
    user_columns ("name", then profile attributes) and item_columns (ITEM_COLUMNS) hold a list of
    U or I values, None where unknown. line: uint32 [N], the line of each row in the first source, 0
    where it is not known. rating_scale: the lowest and the highest rating that the format has, if
    it says so. source_numbers: the source's own item numbering, if it has
    one. feature_words: a given feature list, most frequent first; None: extract one.
    sources: path, bytes and sha256 of each file. understood: what the reader took the source for,
    a topic ("times", "ratings", ...) and one plain sentence, which begins with WARNING where it may
    not be what the user meant; with what `build_dataset` adds, ten topics at most.
    """

    name: str
    format: str
    user_keys: list[str]
    item_keys: list[str]
    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    timestamp: np.ndarray
    headline: pa.ChunkedArray
    text: pa.ChunkedArray
    user_columns: dict[str, list[str | None]]
    item_columns: dict[str, list[str | None]]
    time_unit: str
    line: np.ndarray
    rating_scale: tuple[float, float] | None = None
    source_numbers: list[str] | None = None
    feature_words: list[str] | None = None
    sources: list[dict[str, Any]] = field(default_factory=list)
    skipped_lines: int = 0
    understood: dict[str, str] = field(default_factory=dict)


class RowCollector:
    """Collects a reader's rows into compact columns, numbering keys by first appearance."""

    def __init__(self, users: Iterable[str] = (), items: Iterable[str] = ()) -> None:
        """Start with these keys, numbered in this order before any row has them."""
        self.users = {key: index for index, key in enumerate(users)}
        self.items = {key: index for index, key in enumerate(items)}
        self.user, self.item = array("i"), array("i")
        self.rating, self.timestamp, self.line = array("f"), array("q"), array("I")
        self._pending: dict[str, list[str | None]] = {"headline": [], "text": []}
        self._chunks: dict[str, list[pa.Array]] = {"headline": [], "text": []}

    def __len__(self) -> int:
        return len(self.user)

    def add(
        self,
        user: str,
        item: str,
        rating: float,
        timestamp: int,
        headline: str | None = None,
        text: str | None = None,
        *,
        line: int = 0,
    ) -> int:
        """Append one row (rating NaN when the source has none); return the user's index."""
        index = self.users.setdefault(user, len(self.users))
        self.user.append(index)
        self.item.append(self.items.setdefault(item, len(self.items)))
        self.rating.append(rating)
        self.timestamp.append(timestamp)
        self.line.append(line)
        self._pending["headline"].append(headline)
        self._pending["text"].append(text)
        if len(self._pending["text"]) == CHUNK:
            self._flush()
        return index

    def _flush(self) -> None:
        for name, values in self._pending.items():
            self._chunks[name].append(pa.array(values, TEXT))
            values.clear()

    def raw_data(
        self,
        *,
        name: str,
        format: str,
        user_columns: dict[str, list[str | None]],
        item_columns: dict[str, list[str | None]],
        time_unit: str,
        rating_scale: tuple[float, float] | None = None,
        source_numbers: list[str] | None = None,
        sources: list[dict[str, Any]] | None = None,
        skipped_lines: int = 0,
        understood: dict[str, str] | None = None,
    ) -> RawData:
        """Return the collected rows with the users' and items' columns."""
        self._flush()
        return RawData(
            name=name,
            format=format,
            user_keys=list(self.users),
            item_keys=list(self.items),
            user=np.array(self.user, np.int32),
            item=np.array(self.item, np.int32),
            rating=np.array(self.rating, np.float32),
            timestamp=np.array(self.timestamp, np.int64),
            headline=pa.chunked_array(self._chunks["headline"], TEXT),
            text=pa.chunked_array(self._chunks["text"], TEXT),
            user_columns=user_columns,
            item_columns=item_columns,
            time_unit=time_unit,
            line=np.array(self.line, np.uint32),
            rating_scale=rating_scale,
            source_numbers=source_numbers,
            sources=sources or [],
            skipped_lines=skipped_lines,
            understood=understood or {},
        )


class BadLine(Exception):
    """A malformed line, to be raised by a parser; `read_lines`' caller hands it to LineErrors."""


class LineErrors:
    """Turns malformed lines into a UserError naming file and line, or counts them when told to."""

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.skipped = 0

    def report(self, path: Path, number: int, problem: str | Exception) -> None:
        """Count the line, or raise UserError("path:number: problem")."""
        if not self.skip:
            raise UserError(f"{path}:{number}: {problem}")
        self.skipped += 1


def read_lines(path: Path, errors: LineErrors, what: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, line without its end) of a plain or gzip file, blank lines left out.

    UserError when the file is missing, holds no line, or its compressed stream is damaged or cut
    short (never skipped: what is missing is unknown). A line that is not UTF-8 goes to `errors`.
    """
    number = 0
    lines = 0
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream: Iterable[bytes] = (
                io.BufferedReader(gzip.GzipFile(fileobj=file), 1 << 20) if is_gzip else file
            )
            for number, line in enumerate(with_progress(stream, path.name), 1):
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    errors.report(
                        path, number, f"found byte {line[error.start]:#04x}, expected UTF-8"
                    )
                    continue
                text = text.rstrip("\r\n")
                if number == 1:
                    text = text.removeprefix("\ufeff")
                if text.strip():
                    lines += 1
                    yield number, text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path}: the compressed file is cut short or damaged: the last good line is {number}"
            f" ({error}); fetch it again"
        ) from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file, expected {what}") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder, expected {what}") from error
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it") from error
    if not lines:
        raise UserError(f"{path}: found an empty file, expected {what}")


def with_progress(
    items: Iterable[Item], label: str, unit: str = "lines", size: int = 1
) -> Iterator[Item]:
    """Yield items, each worth `size` units, and report progress on stderr every few seconds."""
    start = last = time.monotonic()
    step = max(1, PROGRESS_STEP // size)
    for count, item in enumerate(items, 1):
        yield item
        if count % step == 0 and (now := time.monotonic()) - last > PROGRESS_SECONDS:
            last = now
            done, rate = count * size, count * size / (now - start)
            print(f"{label}: {done:,} {unit}, {rate:,.0f}/s", file=sys.stderr, flush=True)


def parse_time(value: float, field: str) -> int:
    """Return a timestamp as an integer; BadLine when it does not fit 64 bits."""
    if not -LATEST < value < LATEST:
        raise BadLine(f"field {field!r}: found {value:g}, expected a time")
    return int(value)


def describe_source(path: Path) -> dict[str, Any]:
    """Return path, size in bytes and SHA-256 of a source file, for the manifest."""
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": checksum}


def one_line(value: str | None) -> str | None:
    """Return text with its whitespace collapsed; None for blank text."""
    return (" ".join(value.split()) or None) if value else None


def empty_columns(names: Sequence[str], size: int) -> dict[str, list[str | None]]:
    """Return a column of None for each name."""
    return {name: [None] * size for name in names}
