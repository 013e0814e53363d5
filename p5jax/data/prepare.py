"""Raw files of a known format to a dataset folder: what the API and the command line call."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from p5jax.core.allocation import c_allocation
from p5jax.core.errors import UserError, nearest, shown
from p5jax.data.building import build_dataset
from p5jax.data.dataset import Dataset
from p5jax.data.formats import FORMATS, ArrowTable, PrepareOptions
from p5jax.data.readers.raw import RawData


def prepare(format: str | ArrowTable, out: str | os.PathLike[str], **options: Any) -> Dataset:
    """Read raw data, filter and split its interactions, and write the dataset folder `out`.

    Args:
        format: one of FORMATS: "amazon", "recbole", "sequences", "synthetic" or "table"; or a table
            of interactions itself, of pandas, polars or Arrow.
        out: the folder to write; a dataset that is there is replaced.
        options: those of the format, see p5jax.data.formats; k_core=5, item_ids="sequential",
            split="leave-one-out", seed=0, rating_scale=None or (low, high), min_rating=None,
            ratings=True, skip_bad_lines=False, id_levels=None, id_codes=None, item_vectors=None,
            text_encoder=None and memory=2 (GiB) for all.
            amazon: reviews=, metadata=, feature_words=. recbole: folder=. sequences: sequences=,
            datamaps=, items=. table: interactions=, items=, users=,
            columns={"user": "uid", ...}, item_columns=, user_columns=.

    Raises:
        UserError: an option is unknown or missing, or something is wrong with a file.
    """
    if isinstance(format, ArrowTable):
        format, options = "table", {"interactions": format, **options}
    chosen, folder = chosen_options(format, options), Path(out).absolute()
    build_dataset(
        _read(chosen),
        folder,
        k_core=chosen.k_core,
        scheme=chosen.item_ids,
        seed=chosen.seed,
        rating_scale=chosen.rating_scale,
        min_rating=chosen.min_rating,
        ratings=chosen.ratings,
        skip_bad_lines=chosen.skip_bad_lines,
        id_levels=chosen.id_levels,
        id_codes=chosen.id_codes,
        item_vectors=chosen.item_vectors,
        text_encoder=chosen.text_encoder,
        split=chosen.split,
        memory=chosen.memory,
    )
    return Dataset.load(folder)  # by its name: a new folder stands where `out` was


def read_raw(format: str, **options: Any) -> RawData:
    """Read raw files without writing anything; the arguments are those of `prepare`."""
    return _read(chosen_options(format, options))


@c_allocation()
def _read(options: PrepareOptions) -> RawData:
    raw: RawData = resolve_name(options.reader)(options)
    return raw


def chosen_options(format: str, options: Mapping[str, Any]) -> PrepareOptions:
    """Return the options of a format; UserError for one that is unknown, missing or wrong."""
    if not isinstance(format, str) or format not in FORMATS:
        raise UserError(
            f"format: found {shown(format)}, expected one of {', '.join(FORMATS)}, or a table of"
            " pandas 2.2, polars or Arrow"
        )
    fields = {field.name: field for field in dataclasses.fields(FORMATS[format])}
    for name in options:
        if name not in fields:
            known = nearest(name, fields)
            raise UserError(
                f"prepare {format}: found option {name!r}, which it does not take{known}"
            )
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in options:
            raise UserError(f"prepare {format}: found no {name}, expected {name}=")
    return FORMATS[format](**options)
