"""The formats that `p5jax.prepare` reads, each with its options.

A format's dataclass says what `p5jax data prepare FORMAT` does and which function reads its files;
the fields are the command's options, in its order, and their metadata are what argparse takes
beside the name and the default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from p5jax.core.errors import UserError, nearest, shown
from p5jax.core.settings import SIZE, Range, above, at_least, check
from p5jax.data.schemes import SCHEMES
from p5jax.data.time_split import LEAVE_ONE_OUT, TimeSplit

MEMORY = 2.0  # GiB
FilePath = str | os.PathLike[str]
# What the columns of a table may be said to hold.
INTERACTION_FIELDS = ("user", "item", "rating", "timestamp", "headline", "text")
ITEM_FIELDS = ("item", "title", "brand", "categories", "price")
USER_FIELDS = ("user", "name")


@runtime_checkable
class ArrowTable(Protocol):
    """A table of pandas (2.2 or later), polars or Arrow, which all speak Arrow's C stream."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Hand the table over."""


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What every format takes.

    summary: what its command does, a sentence without its full stop. reader: "module:function"
    from these options to RawData.
    """

    summary: ClassVar[str]
    reader: ClassVar[str]

    k_core: int = field(
        default=5,
        metadata={"metavar": "K", "help": "keep users and items with K interactions or more"},
    )
    split: str = field(
        default=LEAVE_ONE_OUT,
        metadata={
            "metavar": "time:CUTS",
            "help": "hold out each user's last two interactions, or what is later than two cuts of"
            " time: shares such as time:.8/.1/.1, or moments such as time:2016-01-01,2016-07-01",
        },
    )
    rating_scale: tuple[float, float] | None = field(
        default=None,
        metadata={
            "nargs": 2,
            "metavar": ("LOW", "HIGH"),
            "help": "the lowest and the highest rating (default: recognised from training ratings)",
        },
    )
    min_rating: float | None = field(
        default=None,
        metadata={"metavar": "X", "help": "keep interactions with a rating of X or more only"},
    )
    ratings: bool = field(
        default=True, metadata={"help": "learn from ratings, or from interactions alone"}
    )
    item_ids: str = field(
        default="sequential",
        metadata={"metavar": "SCHEME", "help": f"how items are named: {', '.join(SCHEMES)}"},
    )
    id_levels: int | None = field(
        default=None,
        metadata={"metavar": "N", "help": "codes of a semantic id (default 3)"},
    )
    id_codes: int | None = field(
        default=None,
        metadata={
            "metavar": "N",
            "help": "codes that a level of semantic ids chooses from (default: up to 256, by the"
            " size of the catalogue)",
        },
    )
    item_vectors: str | None = field(
        default=None,
        metadata={
            "metavar": "FILE",
            "help": "the items' vectors, .npy or .parquet, instead of those counted from training"
            " interactions and item texts",
        },
    )
    text_encoder: str | None = field(
        default=None,
        metadata={
            "metavar": "DIR",
            "help": "Hugging Face T5 or run folder whose encoder makes the items' vectors from"
            " their texts",
        },
    )
    memory: float = field(
        default=MEMORY,
        metadata={
            "metavar": "GIB",
            "help": "what the texts in memory may take, about; the others wait in a temporary"
            " file (default 2)",
        },
    )
    seed: int = field(default=0, metadata={"metavar": "N", "help": "seed of ids and user numbers"})
    skip_bad_lines: bool = field(
        default=False, metadata={"help": "count malformed lines instead of stopping at the first"}
    )

    def __post_init__(self) -> None:
        check(
            self,
            k_core=SIZE,
            item_ids=SCHEMES,
            rating_scale=Range(),
            min_rating=Range(),
            memory=above(0),
            id_levels=SIZE,
            id_codes=at_least(2),
        )
        TimeSplit.read(self.split)
        for name in ("id_levels", "id_codes"):
            if getattr(self, name) is not None and self.item_ids != "semantic":
                raise UserError(f"{name}: found item ids {self.item_ids!r}, expected 'semantic'")
        if self.item_vectors and self.text_encoder:
            raise UserError("item_vectors: found text_encoder beside it, expected one of the two")
        scale = self.rating_scale
        if scale is not None and scale[0] >= scale[1]:
            raise UserError(
                f"rating_scale: found {shown(scale)}, expected the lowest and the highest rating"
            )


@dataclass(frozen=True, kw_only=True)
class AmazonOptions(PrepareOptions):
    """Amazon reviews of 2014, 2018 or 2023: JSON lines, plain or gzip."""

    summary = "Make a dataset folder from Amazon reviews of 2014, 2018 or 2023"
    reader = "p5jax.data.readers.amazon:read"

    reviews: FilePath | Sequence[FilePath] = field(
        metadata={"nargs": "+", "metavar": "FILE", "help": "review files"}
    )
    metadata: FilePath | Sequence[FilePath] = field(
        default=(), metadata={"nargs": "+", "metavar": "FILE", "help": "the items' metadata files"}
    )
    feature_words: FilePath | None = field(
        default=None,
        metadata={"metavar": "FILE", "help": "feature words, a line each, most frequent first"},
    )


@dataclass(frozen=True, kw_only=True)
class RecboleOptions(PrepareOptions):
    """RecBole atomic files: NAME.inter, and NAME.user and NAME.item where there are such."""

    summary = "Make a dataset folder from RecBole's atomic files"
    reader = "p5jax.data.readers.recbole:read"

    folder: FilePath = field(metadata={"metavar": "DIR", "help": "the folder of the files"})


@dataclass(frozen=True, kw_only=True)
class SequencesOptions(PrepareOptions):
    """P5 / S3-Rec sequence files: a user's number and the items' numbers on each line."""

    summary = "Make a dataset folder from the sequence files of P5 and S3-Rec"
    reader = "p5jax.data.readers.sequences:read"

    sequences: FilePath = field(metadata={"metavar": "FILE", "help": "the sequence file"})
    datamaps: FilePath | None = field(
        default=None, metadata={"metavar": "FILE", "help": "JSON with id2user and id2item"}
    )
    items: FilePath | None = field(
        default=None, metadata={"metavar": "FILE", "help": "item table or keywords"}
    )


@dataclass(frozen=True, kw_only=True)
class SyntheticOptions(PrepareOptions):
    """A small invented world, the same for a seed on every platform."""

    summary = "Make a small synthetic dataset"
    reader = "p5jax.data.readers.synthetic:make"

    users: int = field(default=500, metadata={"help": "users of the world"})
    items: int = field(default=200, metadata={"help": "items of the world"})
    events: tuple[int, int] = field(
        default=(5, 12),
        metadata={
            "nargs": 2,
            "metavar": ("LEAST", "MOST"),
            "help": "the least and the most reviews of a user",
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, users=SIZE, items=SIZE, events=SIZE)


def _columns(fields: Sequence[str], more: str = "") -> dict[str, str]:
    """The metadata of an option that names columns."""
    return {
        "metavar": "FIELD=NAME,...",
        "help": f"columns with other names than the usual ones: FIELD is {', '.join(fields)}{more}",
    }


def _refuse_other_fields(options: object, **known: Sequence[str]) -> None:
    """Raise UserError where an option that names columns names a field that is not known."""
    for name, fields in known.items():
        for each in column_map(name, getattr(options, name)):
            if each not in fields:
                raise UserError(
                    f"{name}: found {each!r}, expected FIELD=NAME with a field of"
                    f" {', '.join(fields)}{nearest(each, fields)}"
                )


@dataclass(frozen=True, kw_only=True)
class TableOptions(PrepareOptions):
    """Tables as people have them: CSV, TSV, JSON lines, Parquet, Arrow; or tables in memory."""

    summary = "Make a dataset folder from tables: CSV, TSV, JSON lines, Parquet or Arrow"
    reader = "p5jax.data.readers.table:read"

    interactions: FilePath | Sequence[FilePath] | ArrowTable = field(
        metadata={"nargs": "+", "metavar": "FILE", "help": "interactions: files, globs or folders"}
    )
    items: FilePath | Sequence[FilePath] | ArrowTable = field(
        default=(), metadata={"nargs": "+", "metavar": "FILE", "help": "the items' titles and more"}
    )
    users: FilePath | Sequence[FilePath] | ArrowTable = field(
        default=(), metadata={"nargs": "+", "metavar": "FILE", "help": "the users' attributes"}
    )
    columns: str | Mapping[str, str] = field(
        default="",
        metadata=_columns(INTERACTION_FIELDS, "; NAME is a number where there is no header"),
    )
    item_columns: str | Mapping[str, str] = field(default="", metadata=_columns(ITEM_FIELDS))
    user_columns: str | Mapping[str, str] = field(default="", metadata=_columns(USER_FIELDS))

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_other_fields(
            self,
            columns=INTERACTION_FIELDS,
            item_columns=ITEM_FIELDS,
            user_columns=USER_FIELDS,
        )


@dataclass(frozen=True, kw_only=True)
class NewRowsOptions:
    """Tables of what is new: the options of `TableOptions`, and items alone are enough."""

    interactions: FilePath | Sequence[FilePath] | ArrowTable = field(
        default=(),
        metadata={"nargs": "+", "metavar": "FILE", "help": "new interactions: files or folders"},
    )
    items: FilePath | Sequence[FilePath] | ArrowTable = field(
        default=(),
        metadata={"nargs": "+", "metavar": "FILE", "help": "the new items' titles and more"},
    )
    columns: str | Mapping[str, str] = field(
        default="",
        metadata=_columns(INTERACTION_FIELDS, "; NAME is a number where there is no header"),
    )
    item_columns: str | Mapping[str, str] = field(default="", metadata=_columns(ITEM_FIELDS))
    skip_bad_lines: bool = field(
        default=False, metadata={"help": "count malformed lines instead of stopping at the first"}
    )

    def __post_init__(self) -> None:
        check(self)
        _refuse_other_fields(self, columns=INTERACTION_FIELDS, item_columns=ITEM_FIELDS)
        if all(isinstance(each, tuple) and not each for each in (self.interactions, self.items)):
            raise UserError("expected --interactions, --items or both")


def column_map(option: str, given: str | Mapping[str, str]) -> dict[str, str]:
    """Return field -> column of an option; UserError for what names no column."""
    if not isinstance(given, str):
        return dict(given)
    found: dict[str, str] = {}
    for word in filter(None, given.split(",")):
        name, sign, column = (part.strip() for part in word.partition("="))
        if not (name and sign and column) or name in found:
            raise UserError(f"{option}: found {word!r}, expected FIELD=NAME, each field once")
        found[name] = column
    return found


def file_paths(given: FilePath | Sequence[FilePath]) -> list[Path]:
    """Return the paths of an option that takes one file or several."""
    return [Path(each) for each in ([given] if isinstance(given, str | os.PathLike) else given)]


def file_path(given: FilePath | None) -> Path | None:
    """Return the path of an option that may be left out."""
    return None if given is None else Path(given)


FORMATS: Mapping[str, type[PrepareOptions]] = {
    "amazon": AmazonOptions,
    "recbole": RecboleOptions,
    "sequences": SequencesOptions,
    "synthetic": SyntheticOptions,
    "table": TableOptions,
}
