"""Shards: draws of the training stream, tokenised once and read from ArrayRecord files.

A folder holds draws-*.array_record, in the stream's order, and manifest.json: what decided the
draws, and each file's size once all are written. A record is [source length, source, target] in the
manifest's unsigned type, little endian.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.files import replace_text
from p5jax.pipeline.batching import Tokens

if TYPE_CHECKING:
    from p5jax.pipeline.samples import RenderedDraws

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
# Windows read thousands of records in a row: groups are read six times as fast as single records,
# and compress to two thirds of their size.
_WRITER_OPTIONS = "group_size:64"
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # no threads for each open file
_SAMPLES = 8


class Shards:
    """The draws of a shard folder, repeated from the start without end."""

    def __init__(self, folder: str | os.PathLike[str], manifest: Mapping[str, Any]):
        files = manifest["files"]
        self.folder = Path(folder).absolute()
        self.names = tuple(files)
        self.starts = np.cumsum([0, *(file["draws"] for file in files.values())])
        self.period = int(self.starts[-1])
        self.dtype = np.dtype(manifest["dtype"])
        self._readers: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}  # open files do not travel to worker processes

    def __call__(self, start: int, count: int) -> list[Tokens]:
        """Return draws start ... start + count - 1; UserError when a file is damaged."""
        tokens: list[Tokens] = []
        while len(tokens) < count:
            place = (start + len(tokens)) % self.period
            shard = int(np.searchsorted(self.starts, place, side="right")) - 1
            stop = min(place + count - len(tokens), int(self.starts[shard + 1]))
            first = int(self.starts[shard])
            tokens += self._read(shard, place - first, stop - first)
        return tokens

    def _read(self, shard: int, start: int, stop: int) -> list[Tokens]:
        if shard not in self._readers:
            self._readers[shard] = _reader(self.folder / self.names[shard])
        try:
            records = self._readers[shard].read(start, stop)
        except (RuntimeError, IndexError) as error:
            raise UserError(
                f"{self.folder / self.names[shard]}: found damaged records ({_line(error)});"
                " delete the file and export the shards again"
            ) from error
        return [decode(record, self.dtype) for record in records]


def open_shards(folder: str | os.PathLike[str], rendered: RenderedDraws) -> Shards:
    """Open the shards of the draws that would be rendered.

    UserError when the folder holds others, with every difference, or is unfinished or damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder}: no shards (no {MANIFEST}); see p5jax data export-shards")
    refuse_difference(folder, manifest["stream"], rendered.identity())
    if "files" not in manifest:
        raise UserError(
            f"{folder}: the export is unfinished; the p5jax data export-shards of before goes on"
        )
    for name, file in manifest["files"].items():
        path = folder / name
        found = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
        if found != f"{file['bytes']} bytes":
            raise UserError(
                f"{path}: found {found}, expected {file['bytes']} bytes; delete the file and"
                " export the shards again"
            )
    shards = Shards(folder, manifest)
    # The manifest cannot tell that the code which renders has changed.
    for place in np.linspace(0, shards.period - 1, _SAMPLES).astype(int).tolist():
        (read,), (expected,) = shards(place, 1), rendered(place, 1)
        if any(not np.array_equal(a, b) for a, b in zip(read[:2], expected[:2], strict=True)):
            raise UserError(
                f"{folder}: draw {place} differs from the prompt that is rendered now;"
                " export the shards again"
            )
    return shards


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return a shard folder's manifest, None without one; UserError when it is none."""
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["shard_format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: found {error!r}, expected a manifest of shards") from error
    if version != FORMAT_VERSION:
        raise UserError(f"{file}: found shard format {version!r}, expected {FORMAT_VERSION}")
    return manifest


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a shard folder's manifest beside, then rename it."""
    replace_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def refuse_difference(folder: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise UserError with every value in which the shards' stream is not the one wanted."""
    old, new = dict(_flat(there)), dict(_flat(wanted))
    differences = [
        f"found {name} = {old.get(name)!r}, expected {new.get(name)!r}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise UserError(f"{folder}: holds other draws: {'; '.join(differences)}")


def write_shard(file: Path, chunks: Iterable[Sequence[bytes]]) -> None:
    """Write records to one file beside, then rename it; nothing stays when `chunks` raises."""
    from array_record.python import array_record_module

    beside = file.with_name(f"{file.name}.partial")
    with _writing(beside):
        writer = array_record_module.ArrayRecordWriter(str(beside), _WRITER_OPTIONS)
    try:
        for records in chunks:
            with _writing(beside):
                for record in records:
                    writer.write(record)
        with _writing(beside):
            writer.close()
        beside.rename(file)
    finally:
        if writer.is_open():
            writer.close()
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # a full disk
        raise UserError(f"{file}: could not be written: {_line(error)}") from error


def record_dtype(vocabulary_size: int, source_length: int) -> np.dtype:
    """Return the smallest type that holds every id and every source's length."""
    small = max(vocabulary_size, source_length) <= np.iinfo(np.uint16).max
    return np.dtype("<u2" if small else "<u4")


def encode(tokens: Tokens, dtype: np.dtype) -> bytes:
    """Return the record of an example."""
    return (
        np.concatenate([[len(tokens.source)], tokens.source, tokens.target]).astype(dtype).tobytes()
    )


def decode(record: bytes, dtype: np.dtype) -> Tokens:
    """Return the example of a record."""
    values = np.frombuffer(record, dtype).astype(np.int32)
    split = 1 + int(values[0])
    return Tokens(values[1:split], values[split:])


def _reader(path: Path) -> Any:
    from array_record.python import array_record_module

    return array_record_module.ArrayRecordReader(str(path), _READER_OPTIONS)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(inner, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, value
