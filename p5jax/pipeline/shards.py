"""Shards: samples of the training stream, tokenised once and read from ArrayRecord files.

A folder holds draws-*.array_record, in the stream's order, and manifest.json: what decided the
samples, and each file's size once all are written. A record is [source length, given, listed,
source, target] (see Tokens) in the manifest's unsigned type, little endian.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.files import replaced
from p5jax.core.folder import OutputFolder, refuse_difference
from p5jax.core.kinds import Count, FileName
from p5jax.pipeline.batching import Tokens

if TYPE_CHECKING:
    from p5jax.pipeline.samples import RenderedSamples


_File = TypedDict("_File", {"draws": Count, "bytes": Count})  # noqa: UP013  as earlier versions
_Manifest = TypedDict(  # noqa: UP013
    "_Manifest",
    {
        "stream": dict[str, Any],
        "epochs": Count,
        "draws": Count,
        "shards": Count,
        "dtype": Literal["<u2", "<u4"],
        "files": NotRequired[dict[FileName, _File]],
    },
)
SHARD_FOLDER = OutputFolder(
    *("folder of shards", "manifest.json", 2, "p5jax data export-shards"),
    version_key="shard_format",
    contents=_Manifest,
)
# Windows read thousands of records in a row: groups are read six times as fast as single records,
# and compress to two thirds of their size.
_WRITER_OPTIONS = "group_size:64"
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # no threads for each open file
_SAMPLES = 8
_HEAD = 3  # numbers before the tokens of a record


class Shards:
    """The samples of a shard folder, repeated from the start without end."""

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
        """Return samples start ... start + count - 1; UserError when a file is damaged."""
        tokens: list[Tokens] = []
        while len(tokens) < count:
            position = (start + len(tokens)) % self.period
            shard = int(np.searchsorted(self.starts, position, side="right")) - 1
            stop = min(position + count - len(tokens), int(self.starts[shard + 1]))
            first = int(self.starts[shard])
            tokens += self._read(shard, position - first, stop - first)
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


def open_shards(folder: str | os.PathLike[str], rendered: RenderedSamples) -> Shards:
    """Open the shards of the samples that would be rendered.

    UserError when the folder holds others, with the first difference, or is unfinished or damaged.
    """
    folder = Path(folder)
    manifest = SHARD_FOLDER.read(folder)
    refuse_difference(folder, manifest["stream"], rendered.identity())
    if "files" not in manifest:
        raise UserError(
            f"{folder}: the export is unfinished; the same {SHARD_FOLDER.command} resumes it"
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
    if shards.period != manifest["draws"] or not shards.period:
        raise UserError(
            f"{folder}/{SHARD_FOLDER.manifest}: found files of {shards.period} samples, expected"
            f" {manifest['draws']}, one or more"
        )
    # The manifest cannot tell that the code which renders has changed.
    for position in np.linspace(0, shards.period - 1, _SAMPLES).astype(int).tolist():
        (read,), (expected,) = shards(position, 1), rendered(position, 1)
        if encode(read, shards.dtype) != encode(expected, shards.dtype):
            raise UserError(
                f"{folder}: sample {position} differs from the prompt that is rendered now;"
                " export the shards again"
            )
    return shards


def write_shard(file: Path, chunks: Iterable[Sequence[bytes]]) -> None:
    """Write records to one file beside, then rename it; nothing stays when `chunks` raises."""
    from array_record.python import array_record_module

    with replaced(file) as beside:
        with _writing(beside):
            writer = array_record_module.ArrayRecordWriter(str(beside), _WRITER_OPTIONS)
        try:
            for records in chunks:
                with _writing(beside):
                    for record in records:
                        writer.write(record)
            with _writing(beside):
                writer.close()
        finally:
            if writer.is_open():
                writer.close()


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
    head = len(tokens.source), tokens.given, tokens.listed
    return np.concatenate([head, tokens.source, tokens.target]).astype(dtype).tobytes()


def decode(record: bytes, dtype: np.dtype) -> Tokens:
    """Return the example of a record."""
    values = np.frombuffer(record, dtype).astype(np.int32)
    length, given, listed = values[:_HEAD].tolist()
    split = _HEAD + length
    return Tokens(values[_HEAD:split], values[split:], given, listed)


def _reader(path: Path) -> Any:
    from array_record.python import array_record_module

    return array_record_module.ArrayRecordReader(str(path), _READER_OPTIONS)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
