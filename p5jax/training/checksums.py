"""Checksums of a checkpoint's files: written with it, and compared while it is read."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from etils import epath

from p5jax.core.documents import read_json
from p5jax.core.errors import UserError
from p5jax.core.kinds import Count
from p5jax.parallel import distributed

STATE, PROGRESS = "state", "progress"  # the two items of a checkpoint
_FILE = "checksums.json"
_THREADS, _CHUNK = 4, 1 << 20
_NAME = "metadata"  # of the JSON file, which Orbax chooses


class ChecksummedJson(ocp.JsonCheckpointHandler):
    """Orbax's item of JSON, with the checksums of its own file and those of the state beside it.

    They are made in the background, before the checkpoint gets its name.
    """

    def finalize(self, directory: epath.Path) -> None:
        """Write the checksums of all files, once they are on disk."""
        if not distributed.is_primary():
            return
        folder = Path(directory)
        beside = folder.with_name(STATE)  # which Orbax has finished by now
        files = {_NAME: folder / _NAME}
        for file in sorted(beside.rglob("*")):
            if file.is_file():
                files[f"../{STATE}/{file.relative_to(beside)}"] = file
        checksums = {name: _checksum(file) for name, file in files.items()}
        (folder / _FILE).write_text(json.dumps(checksums, indent=1))


@ocp.args.register_with_handler(ChecksummedJson, for_save=True)
@dataclass
class ChecksummedJsonSave(ocp.args.JsonSave):
    """What Orbax saves by ChecksummedJson: item, JSON-able."""


@ocp.args.register_with_handler(ChecksummedJson, for_restore=True)
@dataclass
class _ChecksummedJsonRestore(ocp.args.JsonRestore):
    """Orbax wants one of each."""


@contextlib.contextmanager
def compared(folder: Path) -> Iterator[None]:
    """Compare, in threads, all files of an item and the one beside it; ValueError at the end.

    Each process of several reads its share. Nothing is compared for earlier versions' checkpoints.
    """
    share = slice(jax.process_index(), None, jax.process_count())
    expected = list(_expected(folder).items())[share]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(_checksum, [folder / name for name, _ in expected])
        yield
        for (name, checksum), now in zip(expected, found, strict=True):
            _refuse_other(name, checksum, now)


def refuse_changed_json(folder: Path) -> None:
    """Raise ValueError when an item's own file is not as it was written."""
    for name, checksum in _expected(folder).items():
        if name == _NAME:
            _refuse_other(name, checksum, _checksum(folder / name))


def _refuse_other(name: str, expected: int, found: int) -> None:
    if found != expected:
        raise ValueError(f"{name.removeprefix('../')} is not as it was written")


def _expected(folder: Path) -> dict[str, int]:
    file = folder / _FILE
    if not file.is_file():
        return {}
    try:
        checksums: dict[str, int] = read_json(file, dict[str, Count], "checksums")
    except UserError:
        raise ValueError(f"{_FILE} is not as it was written") from None
    return checksums


def _checksum(file: Path) -> int:
    """The CRC-32 of a file, which sees every change of up to 32 bits in a row."""
    found = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            found = zlib.crc32(chunk, found)
    return found
