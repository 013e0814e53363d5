"""TFDS builders: a dataset folder's tables, and raw Amazon reviews.

Needs the extra `[tfds]`. Files are ArrayRecord's, which are written and read without TensorFlow:

    from p5jax.data.tfds import AmazonConfig, AmazonReviews, export_tables, write_files

    export_tables("data/instruments", "tfds")                # p5jax data export-tfds
    write_files(AmazonReviews(config="gift_cards_2018", data_dir="tfds"), manual_dir="raw")
    mine = AmazonConfig("video_games_2023", reviews=("Video_Games.jsonl.gz",))
    write_files(AmazonReviews(config=mine, data_dir="tfds"), manual_dir="raw")

    import tensorflow_datasets as tfds
    tfds.data_source("p5jax_dataset/instruments-reviews", split="train", data_dir="tfds")[0]

Or they are TFRecord's, for `tfds.load` and `seqio.TfdsDataSource`; those need TensorFlow, which is
in the extra `[seqio]`. Rows keep the source's order. TFDS has no missing values: a missing text is
"", a rating NaN.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow_datasets as tfds
from absl import logging

from p5jax.core.errors import UserError
from p5jax.data.dataset import SPLITS, TABLES, Dataset
from p5jax.data.names import TFDS_FORMATS
from p5jax.data.readers.amazon import read_amazon
from p5jax.data.readers.raw import ITEM_COLUMNS, RawData, describe_source

_BATCH = 4096  # rows that are Python objects at a time
_REVIEW_TYPES = {
    "user": pa.string(),
    "item": pa.string(),
    "rating": pa.float32(),
    "timestamp": pa.int64(),
    **dict.fromkeys(("headline", "text", *ITEM_COLUMNS), pa.string()),
}
_HOW_TO_GET = """\
Reviews (and metadata, for titles, brands, categories and prices) are JSON lines, plain or .gz:
2014: https://jmcauley.ucsd.edu/data/amazon/ (reviews_NAME_5.json.gz, meta_NAME.json.gz);
2018: https://nijianmo.github.io/amazon/ (NAME_5.json.gz, meta_NAME.json.gz);
2023: https://amazon-reviews-2023.github.io/ (NAME.jsonl.gz, meta_NAME.jsonl.gz).
Put the files that the configuration names into manual_dir."""
_CITATION = """\
@inproceedings{he2016ups, title={Ups and Downs}, author={He, R. and McAuley, J.}, year={2016}}
@inproceedings{ni2019justifying, title={Justifying Recommendations using Distantly-Labeled Reviews
and Fine-Grained Aspects}, author={Ni, J. and Li, J. and McAuley, J.}, year={2019}}
@article{hou2024bridging, title={Bridging Language and Items for Retrieval and Recommendation},
author={Hou, Y. and others}, year={2024}}"""


@dataclasses.dataclass(eq=False)
class TableConfig(tfds.core.BuilderConfig):
    """A table of a dataset folder: users, items, interactions or reviews."""

    folder: str = ""
    table: str = "interactions"


class DatasetTables(tfds.core.GeneratorBasedBuilder):
    """A table of a p5jax dataset folder with all its columns, row by row.

    Interactions and reviews have the splits train, validation and test of the folder
    (leave-one-out); users and items one split of their own name, in which row n is user or item n.
    The metadata are the folder's manifest and its fingerprint.
    """

    name = "p5jax_dataset"
    VERSION = tfds.core.Version("1.1.0")

    @cached_property
    def _dataset(self) -> Dataset:
        return Dataset.load(self.builder_config.folder)

    @property
    def _table(self) -> pa.Table:
        table = self.builder_config.table
        if table not in TABLES:
            raise UserError(f"table: found {table!r}, expected one of {', '.join(TABLES)}")
        return getattr(self._dataset, table)

    def _info(self) -> tfds.core.DatasetInfo:
        dataset, table = self._dataset, self._table
        types = dict(zip(table.column_names, table.schema.types, strict=True))
        metadata = {"fingerprint": dataset.fingerprint, "manifest": dataset.manifest}
        citation = _CITATION if dataset.manifest["format"] == "amazon" else None
        description = f"{dataset.name}: its {self.builder_config.table}."
        return _info(self, description, types, metadata, citation)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        table = self._table
        if "split" not in table.column_names:
            return {self.builder_config.table: _rows(table)}
        return {
            name: _rows(table.filter(pc.equal(table["split"], number)))
            for number, name in enumerate(SPLITS)
        }

    def _generate_examples(self) -> None:
        raise NotImplementedError("_split_generators makes the examples")


@dataclasses.dataclass(eq=False)
class AmazonConfig(tfds.core.BuilderConfig):
    """Review and metadata files in manual_dir, by name; of those in `sha256` the SHA-256 is
    checked, that of all is recorded."""

    reviews: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    sha256: Mapping[str, str] = dataclasses.field(default_factory=dict)


class AmazonReviews(tfds.core.GeneratorBasedBuilder):
    """Amazon reviews of 2014, 2018 or 2023 with their items' metadata, as the files have them.

    One split, "reviews": nothing is filtered and nothing held out. `p5jax data prepare` does that;
    DatasetTables takes what it makes. The metadata name each file's size and SHA-256, and the unit
    of the timestamps.
    """

    name = "p5jax_amazon_reviews"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = _HOW_TO_GET
    BUILDER_CONFIGS = [  # noqa: RUF012  TFDS reads a list
        AmazonConfig(
            name="musical_instruments_2014",
            description="5-core, 10,261 reviews",
            reviews=("reviews_Musical_Instruments_5.json.gz",),
            sha256={
                "reviews_Musical_Instruments_5.json.gz": "03f9cc27ae13a454cb4ea6cb620fb105"
                "46cc1194ef921441d1c5f34addff2748"
            },
        ),
        AmazonConfig(
            name="gift_cards_2018",
            description="5-core, 2,972 reviews, with metadata",
            reviews=("Gift_Cards_5.json.gz",),
            metadata=("meta_Gift_Cards.json.gz",),
            sha256={
                "Gift_Cards_5.json.gz": "41e1f0e50d3c1c9d7d949fb6315944c8"
                "bde51ea6b7429a29fdd0d02cbc07ef25",
                "meta_Gift_Cards.json.gz": "24ac90af3eb47d9c04458a61a44a76a8"
                "82419190e027c6ec14ee0a993549c34a",
            },
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        about = f"Amazon reviews, {config.name}. {config.description or ''}\n\n{_HOW_TO_GET}"
        return _info(self, about, _REVIEW_TYPES, {}, citation=_CITATION)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        config = self.builder_config
        if not config.reviews:
            raise UserError(f"{config.name}: found no reviews, expected the name of a file")
        try:
            folder = Path(dl_manager.manual_dir)
        except AssertionError as error:
            wanted = ", ".join((*config.reviews, *config.metadata))
            found = str(error).partition(" Create it")[0].rstrip(".")
            raise UserError(f"manual_dir: {found}; expected a folder with {wanted}") from error
        reviews = [folder / name for name in config.reviews]
        metadata = [folder / name for name in config.metadata]
        for path in (*reviews, *metadata):
            _check_file(path, config)
        raw = read_amazon(reviews, metadata, name=config.name)
        self.info.metadata.update(sources=raw.sources, time_unit=raw.time_unit)
        return {"reviews": _rows(_joined(raw))}

    def _generate_examples(self) -> None:
        raise NotImplementedError("_split_generators makes the examples")


def export_tables(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    file_format: str = TFDS_FORMATS[0],
) -> list[Path]:
    """Write every table of a dataset folder below the TFDS folder `out`; return their folders.

    Files that exist are not written again. UserError when they are those of another dataset or in
    another format, and when TFRecord files are asked for without TensorFlow.
    """
    dataset = Dataset.load(folder)
    name = re.sub(r"[^\w-]", "_", dataset.name)
    paths = []
    for table in TABLES:
        config = TableConfig(name=f"{name}-{table}", folder=str(dataset.path), table=table)
        with _quiet():
            builder = DatasetTables(config=config, data_dir=str(out))
        found = builder.info.metadata["fingerprint"]  # that of the files, where they exist
        if found != dataset.fingerprint:
            raise UserError(
                f"{builder.data_path}: found a dataset of fingerprint {found[:12]}, expected"
                f" {dataset.fingerprint[:12]}; choose another folder"
            )
        paths.append(write_files(builder, file_format=file_format))
    return paths


def write_files(
    builder: tfds.core.DatasetBuilder,
    manual_dir: str | os.PathLike[str] | None = None,
    file_format: str = TFDS_FORMATS[0],
) -> Path:
    """Write a builder's files, beside and then renamed, unless they are there; return their folder.

    UserError when the raw files in `manual_dir` are absent or wrong, the files that are there have
    another format, or TensorFlow, which writes TFRecord files, is not installed.
    """
    _check_format(builder, file_format)
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and manual_dir is None:
        raise UserError("manual_dir: found none, expected the folder of the raw files")
    config = tfds.download.DownloadConfig(
        manual_dir=None if manual_dir is None else os.fspath(manual_dir), try_download_gcs=False
    )
    with tempfile.TemporaryDirectory() as unused, _quiet():
        builder.download_and_prepare(
            download_dir=unused, download_config=config, file_format=file_format
        )
    return Path(builder.data_path)


def _check_format(builder: tfds.core.DatasetBuilder, file_format: str) -> None:
    if file_format not in TFDS_FORMATS:
        expected = f"expected {' or '.join(TFDS_FORMATS)}"
        raise UserError(f"file format: found {file_format!r}, {expected}")
    written = Path(builder.data_path) / "dataset_info.json"
    if written.is_file():
        found = json.loads(written.read_text())["fileFormat"]
        if found != file_format:
            raise UserError(
                f"{builder.data_path}: found {found} files, expected {file_format}; choose another"
                " folder"
            )
    if file_format == "tfrecord" and importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            "file format: tfrecord needs TensorFlow; expected pip install 'p5jax[tfds,seqio]'"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what TFDS prints, and its warnings about downloads and custom configurations."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(before)


def _info(
    builder: tfds.core.DatasetBuilder,
    description: str,
    types: Mapping[str, pa.DataType],
    metadata: Mapping[str, Any],
    citation: str | None = None,
) -> tfds.core.DatasetInfo:
    info = tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds.features.FeaturesDict({n: _feature(n, t) for n, t in types.items()}),
        metadata=tfds.core.MetadataDict(metadata),
        citation=citation,
        disable_shuffling=True,  # row n stays row n
    )
    info.set_file_format("array_record")
    return info


def _feature(name: str, kind: pa.DataType) -> Any:
    if name == "split":
        return tfds.features.ClassLabel(names=list(SPLITS))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return tfds.features.Text()
    return np.dtype(kind.to_pandas_dtype())


def _rows(table: pa.Table) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number, row) with a value in every field."""
    missing = {
        name: np.nan if pa.types.is_floating(kind) else ""
        for name, kind in zip(table.column_names, table.schema.types, strict=True)
    }
    number = 0
    for batch in table.to_batches(_BATCH):
        for row in batch.to_pylist():
            filled = {n: missing[n] if value is None else value for n, value in row.items()}
            yield number, filled
            number += 1


def _joined(raw: RawData) -> pa.Table:
    """Return raw reviews, keys for numbers, with their items' metadata."""
    texts = raw.texts.take(np.arange(len(raw.user)))
    columns: dict[str, Any] = {
        "user": pa.array(raw.user_keys, pa.string()).take(pa.array(raw.user)),
        "item": pa.array(raw.item_keys, pa.string()).take(pa.array(raw.item)),
        "rating": raw.rating,
        "timestamp": raw.timestamp,
        **{name: texts[name] for name in texts.column_names},
    }
    for name in ITEM_COLUMNS:
        columns[name] = pa.array(raw.item_columns[name], pa.string()).take(pa.array(raw.item))
    return pa.table(columns)


def _check_file(path: Path, config: AmazonConfig) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a file that {config.name} is made of")
    expected = config.sha256.get(path.name)
    if expected is None:
        return
    found = describe_source(path)["sha256"]
    if found != expected:
        raise UserError(f"{path}: found SHA-256 {found}, expected {expected}")
