"""All kinds of files that p5jax reads."""

from __future__ import annotations

from pathlib import Path

from kind import Kind
from raw_files import raw_kinds
from settings_files import text_kinds, weight_kinds
from shard_files import shard_kinds
from stored_files import stored_kinds
from time_files import time_kinds
from worlds import make_worlds


def make_kinds(worlds: Path) -> list[Kind]:
    """Every kind, over the worlds in a folder, which are made if it is absent."""
    if not worlds.is_dir():
        make_worlds(worlds)
    return [
        *raw_kinds(worlds),
        *text_kinds(worlds),
        *weight_kinds(worlds),
        *stored_kinds(worlds),
        *time_kinds(worlds),
        *shard_kinds(worlds),
    ]
