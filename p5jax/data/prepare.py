"""Raw files of a known format to a dataset folder: what the API and the command line call."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from p5jax.core.errors import UserError, nearest
from p5jax.data.building import build_dataset
from p5jax.data.dataset import Dataset
from p5jax.data.explanations import read_feature_words
from p5jax.data.formats import (
    FORMATS,
    AmazonOptions,
    FilePath,
    PrepareOptions,
    RecboleOptions,
    SequencesOptions,
    SyntheticOptions,
)
from p5jax.data.readers.amazon import read_amazon
from p5jax.data.readers.raw import RawData, describe_source
from p5jax.data.readers.recbole import read_recbole
from p5jax.data.readers.sequences import read_sequences
from p5jax.data.readers.synthetic import synthetic_raw


def prepare(format: str, out: str | os.PathLike[str], **options: Any) -> Dataset:
    """Read raw files, filter and split their interactions, and write the dataset folder `out`.

    Args:
        format: one of FORMATS: "amazon", "recbole", "sequences" or "synthetic".
        out: the folder to write; a dataset that is there is replaced.
        options: those of the format, see p5jax.data.formats; k_core=5, item_ids="sequential",
            seed=0 and skip_bad_lines=False for all. amazon: reviews=, metadata=, feature_words=.
            recbole: folder=. sequences: sequences=, datamaps=, items=.

    Raises:
        UserError: an option is unknown or missing, or something is wrong with a file.
    """
    chosen, folder = _chosen(format, options), Path(out).absolute()
    build_dataset(
        _READERS[format](chosen),
        folder,
        k_core=chosen.k_core,
        scheme=chosen.item_ids,
        seed=chosen.seed,
    )
    return Dataset.load(folder)  # by its name: a new folder stands where `out` was


def read_raw(format: str, **options: Any) -> RawData:
    """Read raw files without writing anything; the arguments are those of `prepare`."""
    chosen = _chosen(format, options)
    return _READERS[format](chosen)


def _chosen(format: str, options: Mapping[str, Any]) -> PrepareOptions:
    if format not in FORMATS:
        raise UserError(f"format: found {format!r}, expected one of {', '.join(FORMATS)}")
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


def _paths(given: FilePath | Sequence[FilePath]) -> list[Path]:
    return [Path(each) for each in ([given] if isinstance(given, str | os.PathLike) else given)]


def _path(given: FilePath | None) -> Path | None:
    return None if given is None else Path(given)


def _read_amazon(options: AmazonOptions) -> RawData:
    raw = read_amazon(
        _paths(options.reviews), _paths(options.metadata), skip_bad_lines=options.skip_bad_lines
    )
    words = _path(options.feature_words)
    if words is None:
        return raw
    sources = [*raw.sources, describe_source(words)]
    return dataclasses.replace(raw, feature_words=read_feature_words(words), sources=sources)


def _read_recbole(options: RecboleOptions) -> RawData:
    return read_recbole(Path(options.folder), skip_bad_lines=options.skip_bad_lines)


def _read_sequences(options: SequencesOptions) -> RawData:
    return read_sequences(
        Path(options.sequences),
        _path(options.datamaps),
        _path(options.items),
        skip_bad_lines=options.skip_bad_lines,
    )


def _make_synthetic(options: SyntheticOptions) -> RawData:
    return synthetic_raw(seed=options.seed)


_READERS: Mapping[str, Callable[[Any], RawData]] = {
    "amazon": _read_amazon,
    "recbole": _read_recbole,
    "sequences": _read_sequences,
    "synthetic": _make_synthetic,
}
