"""Files that are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a hidden file to write beside `path`, and rename it to `path` at the end.

    On an error it is removed, and what `path` held before stays. Hidden, because readers of a
    folder of Parquet files pass over such names.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.partial")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_text(path: Path, text: str) -> None:
    """Write `text` beside `path`, then rename it to `path`."""
    with replaced(path) as beside:
        beside.write_text(text, encoding="utf-8")
