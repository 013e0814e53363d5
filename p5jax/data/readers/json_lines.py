"""JSON objects a line, or Python's literals of them, as Amazon and Steam publish them."""

from __future__ import annotations

import ast
import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from p5jax.core.documents import parse_json
from p5jax.core.errors import UserError, shown
from p5jax.data.readers.cells import BadLine
from p5jax.data.readers.lines import LineErrors, read_lines
from p5jax.data.readers.table_file import TableFile, TablePart, TableRow

Record = dict[str, Any]  # one line's fields
RATING = 1000.0  # whole numbers up to it are no times, whose last digits count
LOOKED_AT = 1000  # lines whose fields are the columns of a file


def json_record(line: str) -> Record:
    """Return the JSON object of a line; BadLine when it is none."""
    try:
        record = parse_json(line)
    except ValueError as error:
        raise BadLine(f"found a line that is not JSON ({error}), expected a JSON object") from error
    if not isinstance(record, dict):
        raise BadLine(f"found {type(record).__name__}, expected a JSON object")
    return record


def literal_record(line: str, what: str) -> Record:
    """Return the object of a line, JSON or a Python literal; nothing is executed.

    what: what BadLine says was expected.
    """
    try:
        record = parse_json(line)
    except ValueError as json_error:
        try:
            record = ast.literal_eval(line)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            raise BadLine(
                f"found a line that is neither JSON ({json_error}) nor a Python literal,"
                f" expected {what}"
            ) from None
    if not isinstance(record, dict):
        raise BadLine(f"found {type(record).__name__}, expected {what} as an object")
    return record


def exact(record: Record, field: str, line: str) -> object:
    """Return a field's value; a fraction as it is written, for floats have too few digits."""
    value = record.get(field)
    if type(value) is not float:
        return value
    try:
        return json.loads(line, parse_float=Decimal)[field]
    except ValueError:  # a Python literal
        return value


def open_json_lines(path: Path, errors: LineErrors, what: str) -> TableFile:
    """Open a file of an object a line; the fields of its first lines are its columns.

    UserError when the file is missing, empty, or no text.
    """
    lines = _records(path, errors, what)
    first = list(itertools.islice(lines, LOOKED_AT))
    names = list(dict.fromkeys(field for _, _, record in first for field in record))

    def read(columns: Sequence[str]) -> Iterator[TableRow]:
        for number, line, record in itertools.chain(first, lines):
            cells = [record.get(column) for column in columns]
            for position, cell in enumerate(cells):
                if type(cell) is float and not (abs(cell) <= RATING and cell.is_integer()):
                    cells[position] = exact(record, columns[position], line)
            yield path, number, cells

    def parts(columns: Sequence[str]) -> Iterator[TablePart]:
        yield TablePart(path, 1, functools.partial(read, columns))

    return TableFile(path, "JSON lines", names, parts)


def _records(path: Path, errors: LineErrors, what: str) -> Iterator[tuple[int, str, Record]]:
    for number, line in read_lines(path, errors, what):
        try:
            record = literal_record(line, "a row")
            if all(type(field) is str for field in record):
                yield number, line, record
            else:
                raise BadLine(f"found {shown(line)}, expected fields with names")
        except BadLine as problem:
            if number == 1 and line.lstrip().startswith("["):
                raise UserError(
                    f"{path}: found a JSON list, expected an object a line; jq -c '.[]' {path}"
                    " writes them so"
                ) from None
            errors.report(path, number, problem)
