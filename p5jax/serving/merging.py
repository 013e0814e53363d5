"""Shards of a ranking, made by independent jobs, and one folder of them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p5jax.core.errors import UserError
from p5jax.core.files import replaced
from p5jax.core.folder import refuse_difference
from p5jax.core.lock import released
from p5jax.core.shard import Shard, each_once
from p5jax.serving.bulk import RANKING_FOLDER, part_file, read_part


@dataclass(frozen=True)
class _Job:
    """What one job wrote: its folder, its shard, the rows of all parts, and what they are of."""

    folder: Path
    shard: Shard
    rows: list[int]
    manifest: dict[str, Any]


@released()
def merge_rankings(folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> None:
    """Write the folder of recommendations that one job would have written.

    folders: one of each shard, in any order. UserError, before anything is written, when a shard is
    missing, there twice, unfinished or of another ranking.
    """
    jobs = [_job(Path(folder)) for folder in folders]
    first = jobs[0]
    for job in jobs:
        where = job.folder / RANKING_FOLDER.manifest
        refuse_difference(where, job.manifest, first.manifest)
        refuse_difference(where, {"shards": job.shard.count}, {"shards": first.shard.count})
    order = each_once([job.folder for job in jobs], [job.shard for job in jobs], "p5jax rank")
    of_number = [jobs[place] for place in order]
    files = {}
    for part, rows in enumerate(first.rows):
        job = next(each for each in of_number if each.shard.takes(part))
        files[part] = part_file(job.folder, part)
        if not files[part].is_file():
            raise UserError(
                f"{files[part]}: missing: shard {job.shard} is not finished; its command resumes"
            )
        read_part(files[part], rows)
    out = Path(out)
    if RANKING_FOLDER.claim(out, first.manifest) is None:
        RANKING_FOLDER.write(out, first.manifest)
    for part, file in files.items():
        with replaced(part_file(out, part)) as beside:
            shutil.copyfile(file, beside)


def _job(folder: Path) -> _Job:
    manifest = RANKING_FOLDER.read(folder)
    shard, rows = manifest.get("shard"), manifest.pop("rows", None)
    numbers = isinstance(rows, list) and all(type(each) is int for each in rows)
    if not isinstance(shard, str) or not re.fullmatch(r"\d{1,9}/\d{1,9}", shard) or not numbers:
        raise UserError(
            f"{folder / RANKING_FOLDER.manifest}: found no shard, expected what p5jax rank --shard"
            " writes"
        )
    return _Job(folder, Shard.read(shard), rows, manifest | {"shard": None})
