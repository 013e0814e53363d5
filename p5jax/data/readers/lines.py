"""Lines of text files, plain or compressed, with their numbers; and what becomes of bad ones."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import io
import lzma
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import pyarrow as pa
from isal import igzip, isal_zlib

from p5jax.core.errors import UserError

LONGEST_LINE = 1 << 26  # bytes; more are no line of any of these formats
BLOCK, PIECE = 1 << 22, 1 << 20  # bytes of a block, at least, and of what is unpacked at once
LARGEST = 1 << 30  # bytes of a file that is read whole
_DAMAGED_GZIP: type[Exception] = isal_zlib.error  # type: ignore[assignment] # as its stub says
DAMAGED = (EOFError, _DAMAGED_GZIP, lzma.LZMAError, OSError)  # and an OSError has no number then
# How compressed files begin, and what opens them.
COMPRESSED: Mapping[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: igzip.IGzipFile(fileobj=file),  # type: ignore[no-untyped-call]
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(pa.PythonFile(file), "zstd"),
}
# How files begin that are no text, what they are, and what makes text of them.
FOREIGN = {
    b"PK\x03\x04": ("a zip archive", "unzip {}"),
    b"\xff\xfe": ("UTF-16", "iconv -f UTF-16 -t UTF-8 {} > NEW and put NEW in its place"),
    b"\xfe\xff": ("UTF-16", "iconv -f UTF-16 -t UTF-8 {} > NEW and put NEW in its place"),
}
NEWLINE = b"\n"
PROGRESS_SECONDS = 5.0
PROGRESS_STEP = 4096  # units between two looks at the clock

Item = TypeVar("Item")


class LineErrors:
    """Turns malformed lines into a UserError naming file and line, or counts them when told to."""

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.skipped = 0
        self.first = ""

    def report(self, path: Path, number: int, problem: str | Exception) -> None:
        """Count the line, or raise UserError("path:number: problem")."""
        if not self.skip:
            raise UserError(f"{path}:{number}: {problem}")
        self.first = self.first or f"{path}:{number}: {problem}"
        self.skipped += 1


def read_lines(
    path: Path, errors: LineErrors, what: str, blank: bool = False
) -> Iterator[tuple[int, str]]:
    """Yield (line number, line without its end) of a plain or compressed file.

    Blank lines are left out, unless `blank`. A byte-order mark at the start of a line is no part of
    it. UserError as `read_blocks`. A line that is not UTF-8 goes to `errors`.
    """
    blocks = read_blocks(path, what)
    lines = (line for block in blocks for line in block.lines(path, errors, blank))
    yield from with_progress(lines, path.name)


@dataclass(frozen=True)
class Block:
    """Whole lines of a file, and the number of the first."""

    first: int
    data: bytes

    def after(self, number: int) -> Block:
        """Return the lines behind one of them."""
        end = 0
        for _ in range(self.first, number + 1):
            end = self.data.index(NEWLINE, end) + 1
        return Block(number + 1, self.data[end:])

    def halves(self) -> tuple[Block, Block] | None:
        """Return two blocks of about half the bytes; None where it cannot be cut."""
        cut = self.data.find(NEWLINE, len(self.data) // 2) + 1
        if cut in (0, len(self.data)):
            return None
        before = self.data[:cut]
        return Block(self.first, before), Block(self.first + before.count(NEWLINE), self.data[cut:])

    def lines(
        self, path: Path, errors: LineErrors, blank: bool = False
    ) -> Iterator[tuple[int, str]]:
        """Yield the lines as `read_lines`."""
        for number, line in enumerate(io.BytesIO(self.data), self.first):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                errors.report(path, number, _not_utf8(path, error))
                continue
            text = text.removeprefix("\ufeff").rstrip("\r\n")
            if blank or text.strip():
                yield number, text


def read_blocks(path: Path, what: str) -> Iterator[Block]:
    """Yield the lines of a plain or compressed file, about BLOCK bytes at a time.

    UserError when the file is missing, holds no line, is an archive or UTF-16, or its packed
    stream is damaged or cut short (never skipped: what is missing is unknown).
    """
    number, rest, empty = 1, bytearray(), True
    problem: UserError | None = None
    try:
        with _opened(path, what) as stream:
            # What was unpacked so far, for behind it the file may be damaged.
            while problem is None and (piece := stream.read1(PIECE)):
                rest += piece
                end = rest.rfind(NEWLINE) + 1
                if len(rest) - end >= LONGEST_LINE:
                    where = f"{path}:{number + rest.count(NEWLINE)}"
                    problem = UserError(f"{where}: found more than {LONGEST_LINE:,} bytes a line")
                if end >= BLOCK:
                    block = Block(number, bytes(memoryview(rest)[:end]))
                    empty = empty and _is_blank(block)
                    yield block
                    number += block.data.count(NEWLINE)
                    del rest[:end]
    except DAMAGED as error:
        if getattr(error, "errno", None):
            raise
        last = number + rest.count(NEWLINE) - 1
        problem = UserError(
            f"{path}: the compressed file is cut short or damaged: the last good line is {last}"
            f" ({error}); fetch it again"
        )
        problem.__cause__ = error
    if problem is not None:  # the last line is no whole one
        del rest[rest.rfind(NEWLINE) + 1 :]
    block = Block(number, bytes(rest))
    if rest:
        yield block
    if problem is not None:
        raise problem
    if empty and _is_blank(block):
        raise UserError(f"{path}: found an empty file, expected {what}")


def _is_blank(block: Block) -> bool:
    """Whether a block has no line of text."""
    return next(block.lines(Path(), LineErrors(skip=True)), None) is None


def read_text(path: Path, what: str) -> str:
    """Return the text of a plain or compressed file; UserError as `read_lines`."""
    try:
        with _opened(path, what) as stream:
            text = stream.read(LARGEST)
    except DAMAGED as error:
        if getattr(error, "errno", None):
            raise
        raise UserError(
            f"{path}: the compressed file is cut short or damaged ({error}); fetch it again"
        ) from error
    if len(text) == LARGEST:
        raise UserError(f"{path}: found more than {LARGEST:,} bytes, expected {what}")
    try:
        return text.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {_not_utf8(path, error)}") from error


@contextlib.contextmanager
def _opened(path: Path, what: str) -> Iterator[io.BufferedReader]:
    """The bytes of a plain or compressed file, told apart by how it begins, not by its name."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
            file.seek(0)
            for sign, (found, advice) in FOREIGN.items():
                if start.startswith(sign):
                    raise UserError(
                        f"{path}: found {found}, expected {what}; type {advice.format(path)}"
                    )
            opener = next((COMPRESSED[s] for s in COMPRESSED if start.startswith(s)), None)
            yield io.BufferedReader(opener(file), 1 << 20) if opener else file
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file, expected {what}") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder, expected {what}") from error
    except PermissionError as error:
        raise UserError(f"{path}: no permission to read it") from error


def _not_utf8(path: Path, error: UnicodeDecodeError) -> str:
    return (
        f"found byte {error.object[error.start]:#04x}, expected UTF-8; if it is Latin-1, type"
        f" iconv -f LATIN1 -t UTF-8 {path} > NEW and put NEW in its place"
    )


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
