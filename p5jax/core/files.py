"""Files and folders that are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from p5jax.core.errors import UserError, in_words
from p5jax.core.lock import LOCK, hold, release


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a hidden file to write beside `path`, and rename it to `path` at the end.

    On an error it is removed, and what `path` held before stays. Hidden, because readers of a
    folder of Parquet files pass over such names. UserError when another process is writing it.
    """
    path = Path(path)
    beside = _partial(path)
    with contextlib.ExitStack() as at_end:
        opened = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
        at_end.callback(os.close, opened)
        if not _is_free(opened):
            raise UserError(f"{path}: another process is writing it; wait until it ends")
        at_end.callback(beside.unlink, missing_ok=True)
        with _named(path):
            yield beside
            beside.replace(path)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_text(path: Path, text: str) -> None:
    """Write `text` beside `path`, then rename it to `path`; a file that holds it stays as it is."""
    data = text.encode("utf-8")
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    with replaced(path) as beside:
        beside.write_bytes(data)


def claim_replacing(path: str | os.PathLike[str]) -> None:
    """Lock the hidden folder that `replaced_folder` fills.

    Called before long work, it finds out whether `path` can be written, and keeps others from it.
    UserError when another process is at it.
    """
    path = Path(path).absolute()
    hold(_partial(path), path)


@contextlib.contextmanager
def replaced_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a hidden empty folder to fill beside `path`, and rename it to `path` at the end.

    On an error it is removed, and what `path` held before stays. What a killed process left is
    removed first, and what it had moved aside comes back. UserError as `claim_replacing`.
    """
    path = Path(path).absolute()
    partial, aside = _partial(path), path.with_name(f".{path.name}.old")
    claim_replacing(path)

    def tidy() -> None:
        if aside.exists() and not path.exists():
            aside.rename(path)
        shutil.rmtree(aside, ignore_errors=True)

    try:
        tidy()
        for left in partial.iterdir():
            if left.name != LOCK:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        with _named(path):
            yield partial
        if path.exists():
            path.rename(aside)  # something whole is on disk at every moment
        partial.rename(path)
        (path / LOCK).unlink()
    finally:
        tidy()
        if partial.exists():
            shutil.rmtree(partial, ignore_errors=True)
        release(partial)


def remove_left_overs(folder: Path) -> None:
    """Remove what killed processes were writing in a folder, but nothing of a living process."""
    for left in folder.glob(".*.partial"):
        # One may be renamed meanwhile, lead nowhere, or be another user's.
        with contextlib.suppress(UserError, FileNotFoundError, PermissionError):
            _remove_left_over(left)


def _remove_left_over(left: Path) -> None:
    if left.is_dir():
        hold(left)
        try:
            shutil.rmtree(left)
        finally:
            release(left)
        return
    opened = os.open(left, os.O_RDWR)
    try:
        if _is_free(opened):
            left.unlink(missing_ok=True)
    finally:
        os.close(opened)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Within it, an error of the system that names no file is one of `path`."""
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        raise UserError(f"{path}: could not be written ({in_words(error)})") from error


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _is_free(opened: int) -> bool:
    """Lock an open file while it is open; return whether no other process has locked it."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some file systems know no such lock
        pass
    return True
