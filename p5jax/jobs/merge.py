"""One merge of the shards that independent jobs made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from p5jax.evaluation.merging import merge_evaluations
from p5jax.evaluation.results import SUMMARY, FamilyResult
from p5jax.jobs.start import PathName
from p5jax.serving.merging import merge_rankings


def merge(folders: Sequence[PathName], out: PathName) -> list[FamilyResult] | None:
    """Write to `out` what one job would have written, from what each shard's job wrote.

    The folders are of one ranking or of one evaluation, whose results are returned. UserError,
    before anything is written, when a shard is missing, there twice or of something else.
    """
    if any((Path(folder) / SUMMARY).is_file() for folder in folders):
        return merge_evaluations(folders, out)
    merge_rankings(folders, out)
    return None
