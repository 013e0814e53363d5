"""Tables of interactions, items and users in any usual format -> RawData."""

from __future__ import annotations

import dataclasses
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from p5jax.core.errors import UserError, shown
from p5jax.core.threads import in_threads
from p5jax.data.formats import (
    MEMORY,
    ArrowTable,
    FilePath,
    NewRowsOptions,
    TableOptions,
    column_map,
    file_paths,
)
from p5jax.data.readers.arrow_files import IN_MEMORY, arrow_table, describe_in_memory
from p5jax.data.readers.attributes import Row, fill_items, user_attributes
from p5jax.data.readers.cells import BadLine, is_missing, key_of, listed, rating_of
from p5jax.data.readers.columns import FIELD_NAMES, usual_column
from p5jax.data.readers.finding import Source, found_files, open_tables, refuse_missing
from p5jax.data.readers.lines import LineErrors
from p5jax.data.readers.page_text import plain
from p5jax.data.readers.raw import (
    ITEM_COLUMNS,
    RawData,
    RowCollector,
    Rows,
    describe_source,
    empty_columns,
)
from p5jax.data.readers.table_columns import in_columns
from p5jax.data.readers.table_file import TableFile, TablePart, TableRow
from p5jax.data.readers.times import Time
from p5jax.data.time_split import POSITION

OTHER_KEYS = ("id",)  # names of the key in a table about users or items
_Given = FilePath | Sequence[FilePath] | ArrowTable


def read(options: TableOptions) -> RawData:
    """Read the tables that the options of `p5jax.prepare` name.

    A field's column is the one that the options say, or else one of the usual names. Ratings and
    times are optional, and so is each rating; without a column of times the order of the rows
    counts. UserError names file and line of what is malformed, unless `skip_bad_lines` counts it.
    """
    errors = LineErrors(options.skip_bad_lines)
    columns = column_map("columns", options.columns)
    found = _interactions(options.interactions, columns, errors, options.memory)
    rows, understood = found.rows, found.understood
    if told := rows.read_float_keys():
        understood["keys"] = told
    user_columns: dict[str, list[str | None]] = {}
    attributes = empty_columns(ITEM_COLUMNS, len(rows.items))
    if about := _sources(options.users, "users"):
        given = column_map("user_columns", options.user_columns)
        name, names, about_users = _about(about, "user", found.columns, given, errors)
        user_columns, understood["users"] = user_attributes(name, names, about_users, rows.users)
        if "name" in given and given["name"] in user_columns:
            user_columns["name"] = user_columns.pop(given["name"])
        found.sources += about
    if about := _sources(options.items, "items"):
        given = column_map("item_columns", options.item_columns)
        name, names, about_items = _about(about, "item", found.columns, given, errors)
        given.pop("item", None)
        understood["items"] = fill_items(name, names, about_items, rows.items, attributes, given)
        found.sources += about
    return found.raw_data(_name(options.interactions), user_columns, attributes, errors)


def read_new(options: NewRowsOptions) -> RawData:
    """Read interactions and items that join a dataset; items also without an interaction.

    Files and columns are as for `read`. UserError also where there is no row at all.
    """
    errors, found = LineErrors(options.skip_bad_lines), _Read()
    if not isinstance(options.interactions, tuple) or options.interactions:
        found = _interactions(options.interactions, column_map("columns", options.columns), errors)
    about, told = _sources(options.items, "items"), ("", [""], list[Row]())
    given = column_map("item_columns", options.item_columns)
    if about:
        name, names, rows = _about(about, "item", found.columns, given, errors)
        told = name, names, list(rows)
        if not told[2] and not errors.skipped:
            raise UserError(f"{name}: found no row, expected {_what('items')}")
        found.sources += about
    items = found.rows.items
    for key, _ in told[2]:
        items.setdefault(key, len(items))
    if said := found.rows.read_float_keys():
        found.understood["keys"] = said
    attributes = empty_columns(ITEM_COLUMNS, len(items))
    if about:
        given.pop("item", None)
        found.understood["items"] = fill_items(*told, items, attributes, given)
    return found.raw_data("new rows", {}, attributes, errors)


@dataclasses.dataclass
class _Read:
    """What is read of a table of interactions, nothing where there is none."""

    rows: RowCollector = dataclasses.field(default_factory=RowCollector)
    columns: dict[str, str] = dataclasses.field(default_factory=lambda: {"item": "item_id"})
    sources: list[Source] = dataclasses.field(default_factory=list)
    understood: dict[str, str] = dataclasses.field(default_factory=dict)
    line: Sequence[int] = ()
    starts: dict[str, int] = dataclasses.field(default_factory=dict)

    def raw_data(
        self,
        name: str,
        user_columns: dict[str, list[str | None]],
        item_columns: dict[str, list[str | None]],
        errors: LineErrors,
    ) -> RawData:
        items = self.rows.items
        numbered = all(key.isascii() and key.isdigit() for key in items)
        return self.rows.raw_data(
            name=name,
            format="table",
            user_columns=user_columns,
            item_columns=item_columns,
            time_unit=None if "timestamp" in self.columns else POSITION,
            source_numbers=list(items) if numbered else None,
            sources=[
                describe_in_memory(each) if isinstance(each, pa.Table) else describe_source(each)
                for each in self.sources
            ],
            errors=errors,
            understood=self.understood,
            line=self.line,
            starts=self.starts,
        )


def _interactions(
    interactions: _Given, given: Mapping[str, str], errors: LineErrors, memory: float = MEMORY
) -> _Read:
    """Read a table of interactions; UserError where it has no row."""
    sources = _sources(interactions, "interactions")
    table = open_tables(sources, errors, _what("interactions"), given.values())
    columns = _chosen(table, given)
    rows, understood = RowCollector(memory=memory), {"columns": _told(table, columns)}
    line, starts = _read_interactions(table.parts([*columns.values()]), columns, rows, errors)
    if not len(rows) and not errors.skipped:
        raise UserError(f"{table.path}: found no row, expected {_what('interactions')}")
    if "timestamp" not in columns:
        understood["times"] = "no column of times: the order of the rows counts"
    return _Read(rows, columns, sources, understood, line, starts)


def _what(rows: str) -> str:
    return f"a table of {rows}: CSV, TSV, JSON lines, Parquet or Arrow"


def _sources(given: _Given, rows: str) -> list[Source]:
    """Return the files or the table that an option names; none where it is not given."""
    if isinstance(given, ArrowTable):
        return [arrow_table(given, _what(rows))]
    return [*found_files(file_paths(given), _what(rows))]


def _name(given: _Given) -> str:
    """Return the name of the dataset: that of the folder or of the first file."""
    if isinstance(given, ArrowTable):
        return "table"
    path = file_paths(given)[0].absolute()
    return path.name if path.is_dir() else path.name.split(".")[0] or path.name


def _chosen(table: TableFile, given: Mapping[str, str]) -> dict[str, str]:
    """Return field -> column of a table of interactions; UserError without users and items."""
    columns: dict[str, str] = {}
    free = [name for name in table.names if name not in given.values()]
    for field, usual in FIELD_NAMES.items():
        if field in given:
            refuse_missing(table, given[field], f"--columns {field}={given[field]} names it")
            columns[field] = given[field]
        elif name := usual_column(free, usual):
            columns[field] = name
        elif field in ("user", "item"):
            raise UserError(
                f"{table.path}: found no column of {field}s among {listed(table.names)}, expected"
                f" one such as {field}_id; --columns {field}=NAME says which, or its number where"
                " the file has no header"
            )
    return columns


def _told(table: TableFile, columns: Mapping[str, str]) -> str:
    """What the columns of the interactions were taken for."""
    taken = [field if field == name else f"{field} from {name}" for field, name in columns.items()]
    unused = [name for name in table.names if name not in columns.values()]
    more = f"; not used: {listed(unused)}" if unused else ""
    return f"{', '.join(taken)} ({table.form}{more})"


def _read_interactions(
    parts: Iterable[TablePart], columns: Mapping[str, str], rows: RowCollector, errors: LineErrors
) -> tuple[Sequence[int], dict[str, int]]:
    """Collect the rows; return the line of each, and the first row of each file."""
    line, starts = array("I"), dict[str, int]()

    def found_in(part: TablePart) -> Rows | None:
        given = part.columns()
        return None if given is None else in_columns(columns, rows.users, rows.items, given)

    for part, found in in_threads(found_in, parts):
        first = len(rows)
        starts.setdefault(str(part.path), first)
        if found is not None:
            here = np.arange(len(found.user))
            if "timestamp" not in columns:
                found = dataclasses.replace(found, times=first + here)
            if rows.extend(found) is not None:
                line.frombytes((part.first + here).astype(np.uintc).tobytes())
                continue
        _read_rows(part.rows(), columns, rows, line, errors)
    return line, starts


def _read_rows(
    table: Iterable[TableRow],
    columns: Mapping[str, str],
    rows: RowCollector,
    line: array[int],
    errors: LineErrors,
) -> None:
    """Collect rows one by one, and the line of each."""
    positions = {field: position for position, field in enumerate(columns)}
    rating_at, time_at = positions.get("rating"), positions.get("timestamp")
    headline_at, text_at = positions.get("headline"), positions.get("text")
    user_name, item_name = columns["user"], columns["item"]
    users, items, times = rows.users, rows.items, rows.times
    for path, number, cells in table:
        try:
            user, item = cells[0], cells[1]
            if type(user) is not str or user not in users:  # nearly all are known
                user = key_of(user, user_name)
            if type(item) is not str or item not in items:
                item = key_of(item, item_name)
            rating = (
                math.nan if rating_at is None else rating_of(cells[rating_at], columns["rating"])
            )
            headline = None if headline_at is None else _text(cells[headline_at], "headline")
            text = None if text_at is None else _text(cells[text_at], "text")
            moment: Time = len(rows)
            if time_at is not None:  # last, for a refused line must not teach it anything
                moment = times.parse(cells[time_at], columns["timestamp"])
            rows.add(user, item, rating, moment, headline, text)
            line.append(number)
        except BadLine as problem:
            errors.report(path, number, problem)


def _text(value: object, field: str) -> str | None:
    """Return the text of a review in a cell; None for a missing one."""
    if value is None or isinstance(value, str):
        return None if value is None or is_missing(value.strip()) else plain(value)
    if isinstance(value, int | float):
        return None if value != value else str(value)
    raise BadLine(f"field {field!r}: found {shown(value)}, expected a text")


def _about(
    sources: Sequence[Source],
    field: str,
    columns: Mapping[str, str],
    given: Mapping[str, str],
    errors: LineErrors,
) -> tuple[str, list[str], Iterator[Row]]:
    """Open tables about users or items: return what messages call them, the names of their columns
    without the key, and the rows."""
    table = open_tables(sources, errors, _what(f"{field}s"), given.values())
    for name in given.values():
        refuse_missing(table, name, f"--{field}-columns names it")
    usual = (*FIELD_NAMES[field], *OTHER_KEYS)
    same = columns[field] if columns[field] in table.names else usual_column(table.names, usual)
    key = given.get(field) or same
    if key is None:
        raise UserError(
            f"{table.path}: found no column of {field}s among {listed(table.names)}, expected one"
            f" such as {columns[field]}; --{field}-columns {field}=NAME says which"
        )
    names = [name for name in table.names if name != key]

    def rows() -> Iterator[Row]:
        for path, number, cells in table.read([key, *names]):
            try:
                yield key_of(cells[0], key), cells[1:]
            except BadLine as problem:
                errors.report(path, number, problem)

    paths = [each.name if isinstance(each, Path) else str(IN_MEMORY) for each in sources]
    return listed(paths, 3), names, rows()
