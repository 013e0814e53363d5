"""The files of a table: what globs and folders stand for, and what opens each file."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from p5jax.core.errors import UserError, nearest
from p5jax.data.readers.arrow_files import open_arrow_file, open_in_memory
from p5jax.data.readers.cells import listed
from p5jax.data.readers.delimited import open_delimited
from p5jax.data.readers.json_lines import open_json_lines
from p5jax.data.readers.lines import LineErrors, read_lines
from p5jax.data.readers.table_file import TableFile, TablePart

Source: TypeAlias = Path | pa.Table
ENDS = ("csv", "tsv", "txt", "json", "jsonl", "ndjson", "parquet", "pq", "arrow", "feather", "ipc")
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zstd")
# Files that are published without a header -> their columns; further ones are left out.
WITHOUT_HEADER = {
    "u.data": ("user_id", "item_id", "rating", "timestamp"),
    "u.item": ("item_id", "title", "release_date", "video_release_date", "url"),
    "u.user": ("user_id", "age", "gender", "occupation", "zip_code"),
    "ratings.dat": ("user_id", "item_id", "rating", "timestamp"),
    "movies.dat": ("item_id", "title", "genres"),
    "users.dat": ("user_id", "gender", "age", "occupation", "zip_code"),
}


def found_files(given: Iterable[Path], what: str) -> list[Path]:
    """Return the files that paths, globs and folders stand for, those of each in order.

    A folder is one of Hugging Face datasets, or has files of one kind, also in folders below.
    UserError when there are none, or of several kinds.
    """
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            files += _inside(path, what)
        elif not path.exists() and glob.has_magic(str(path)):
            matches = [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]
            if not matches:
                raise UserError(f"{path}: found no file of such a name, expected {what}")
            files += found_files(matches, what)
        else:
            files.append(path)
    return files


def _inside(folder: Path, what: str) -> list[Path]:
    if (folder / "dataset_dict.json").is_file():
        parts = listed(sorted(each.name for each in folder.iterdir() if each.is_dir()))
        raise UserError(f"{folder}: found the parts {parts}, expected one or more of their folders")
    if (folder / "state.json").is_file():  # beside what `datasets` keeps of its computations
        files = folder.glob("*.arrow")
        return sorted(each for each in files if not each.name.startswith("cache-"))
    kinds: dict[str, list[Path]] = {}
    for each in sorted(folder.rglob("*")):
        hidden = any(part[0] in "._" for part in each.relative_to(folder).parts)
        if each.is_file() and not hidden:
            kinds.setdefault(_end(each), []).append(each)
    known = {end: files for end, files in kinds.items() if end in ENDS} or kinds
    if len(known) != 1:
        ends = f"files of {listed(sorted(known))}" if known else "no file"
        raise UserError(f"{folder}: found {ends}, expected {what} of one kind")
    return next(iter(known.values()))


def _end(path: Path) -> str:
    """The end of a file's name, but for that of its compression."""
    return _bare(path).rpartition(".")[2].lower()


def _bare(path: Path) -> str:
    return path.name.removesuffix(path.suffix) if path.suffix in PACKED else path.name


def open_tables(
    sources: Sequence[Source], errors: LineErrors, what: str, given: Iterable[str] = ()
) -> TableFile:
    """Open tables of the same columns as one; each is opened when its rows' turn has come.

    given: the columns that the user names; one that is a number means that there is no header.
    UserError when a file is missing, empty or damaged, or lacks a column that is read.
    """
    given = tuple(given)
    first = _open(sources[0], errors, what, given)

    def parts(columns: Sequence[str]) -> Iterator[TablePart]:
        yield from first.parts(columns)
        for source in sources[1:]:
            table = _open(source, errors, what, given)
            for column in columns:
                refuse_missing(table, column, f"{first.path.name} has it")
            yield from table.parts(columns)

    form = first.form if len(sources) == 1 else f"{len(sources):,} files of {first.form}"
    return TableFile(first.path, form, first.names, parts)


def _open(source: Source, errors: LineErrors, what: str, given: Sequence[str]) -> TableFile:
    """Open a table, told apart by how its file begins and not by its name."""
    if isinstance(source, pa.Table):
        return open_in_memory(source, what)
    table = open_arrow_file(source, what)
    if table is not None:
        return table
    _, first = next(read_lines(source, LineErrors(skip=True), what), (0, ""))
    if first.lstrip().startswith(("{", "[")):
        return open_json_lines(source, errors, what)
    numbered = any(name.isdigit() for name in given)
    names = None if numbered else WITHOUT_HEADER.get(_bare(source))
    return open_delimited(source, errors, what, names, header=not numbered)


def refuse_missing(table: TableFile, column: str, why: str) -> None:
    """Raise UserError when a table has no such column; why: who says that it has."""
    if column not in table.names:
        raise UserError(
            f"{table.path}: found no column {column!r} among {listed(table.names)}, but {why}"
            f"{nearest(column, table.names)}"
        )
