"""Parquet files and NumPy arrays, read whole and checked before they are used."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from p5jax.core.errors import UserError, in_words
from p5jax.core.files import replaced


def write_parquet(path: str | os.PathLike[str], table: pa.Table) -> None:
    """Write a table beside, then rename it; its pages have checksums, which reading verifies."""
    with replaced(path) as beside:
        pq.write_table(table, beside, compression="zstd", write_page_checksum=True)


def read_parquet(path: str | os.PathLike[str], schema: pa.Schema, expected: str) -> pa.Table:
    """Return a file's table, which may have more columns than the schema.

    expected: what messages call it. Whole numbers, fractions and texts may be of another width.
    UserError when it is absent or damaged, lacks a column, has one of another type, or misses
    values in one that is not nullable.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
        table.validate(full=True)
    except FileNotFoundError:
        raise UserError(f"{path}: not found, expected {expected}") from None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise UserError(f"{path}: found {_cause(error)}; expected {expected}") from error
    for field in schema:
        indices = table.schema.get_all_field_indices(field.name)
        if len(indices) != 1:
            found = "twice" if indices else "missing"
            raise UserError(f"{path}: column {field.name!r} is {found}, expected {expected}")
        column = table.column(indices[0])
        if not _alike(column.type, field.type):
            what = f"column {field.name!r} of type {column.type}"
            raise UserError(f"{path}: found {what}, expected {field.type}")
        if column.null_count and not field.nullable:
            what = f"no value in {column.null_count} rows of column {field.name!r}"
            raise UserError(f"{path}: found {what}, expected one in each")
    return table


def read_array(
    path: str | os.PathLike[str],
    dtype: type | tuple[type, ...],
    shape: tuple[int | None, ...],
    expected: str,
) -> np.ndarray:
    """Return an .npy file's array of finite numbers, of one of the types; None in `shape` is any
    length.

    UserError when it is absent, damaged or of another type or shape.
    """
    try:
        # Mapped first: a header that promises more than the file holds is refused.
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        fits = len(array.shape) == len(shape)
        fits &= all(w in (None, n) for w, n in zip(shape, array.shape, strict=False))
    except Exception as error:  # a header is Python text, which fails in many ways
        raise UserError(f"{path}: found {_cause(error)}; expected {expected}") from error
    dtypes = [np.dtype(each) for each in (dtype if isinstance(dtype, tuple) else (dtype,))]
    if array.dtype not in dtypes or not fits:
        found = f"{array.dtype} of shape {array.shape}"
        wanted = " or ".join(map(str, dtypes))
        lengths = ", ".join("any" if length is None else str(length) for length in shape)
        raise UserError(f"{path}: found {found}, expected {wanted} of shape ({lengths})")
    if not np.isfinite(array).all():
        raise UserError(f"{path}: found a number that is not finite, expected {expected}")
    return np.array(array)


def _alike(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether two types are the same but for their width."""
    kinds = (
        pa.types.is_integer,
        pa.types.is_floating,
        lambda type: pa.types.is_string(type) or pa.types.is_large_string(type),
    )
    if pa.types.is_list(found) and pa.types.is_list(wanted):
        return _alike(found.value_type, wanted.value_type)
    return found == wanted or any(kind(found) and kind(wanted) for kind in kinds)


def _cause(error: Exception) -> str:
    """The first words of an error from outside."""
    return " ".join(in_words(error).split())[:160] or type(error).__name__
