"""The formats that `p5jax.prepare` reads, each with its options.

The fields are the options of `p5jax data prepare FORMAT`, in the command line's order; their
metadata are what argparse takes beside the name and the default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from p5jax.data.schemes import SCHEMES

FilePath = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What every format takes."""

    k_core: int = field(
        default=5,
        metadata={"metavar": "K", "help": "keep users and items with K interactions or more"},
    )
    item_ids: str = field(
        default="sequential",
        metadata={"metavar": "SCHEME", "help": f"how items are named: {', '.join(SCHEMES)}"},
    )
    seed: int = field(default=0, metadata={"metavar": "N", "help": "seed of ids and user numbers"})
    skip_bad_lines: bool = field(
        default=False, metadata={"help": "count malformed lines instead of stopping at the first"}
    )


@dataclass(frozen=True, kw_only=True)
class AmazonOptions(PrepareOptions):
    """Amazon reviews of 2014, 2018 or 2023: JSON lines, plain or gzip."""

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

    folder: FilePath = field(metadata={"metavar": "DIR", "help": "the folder of the files"})


@dataclass(frozen=True, kw_only=True)
class SequencesOptions(PrepareOptions):
    """P5 / S3-Rec sequence files: a user's number and the items' numbers on each line."""

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


FORMATS: Mapping[str, type[PrepareOptions]] = {
    "amazon": AmazonOptions,
    "recbole": RecboleOptions,
    "sequences": SequencesOptions,
    "synthetic": SyntheticOptions,
}
