"""Recommendations for every user of a dataset, as a folder of Parquet files."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from p5jax.core.errors import Interrupted, UserError
from p5jax.core.folder import OutputFolder, as_json
from p5jax.core.interruption import Interruption
from p5jax.core.lock import released
from p5jax.core.progress import Progress, Report
from p5jax.core.shard import Shard
from p5jax.core.tables import read_parquet, write_parquet
from p5jax.memory.memory import Memory
from p5jax.parallel import distributed
from p5jax.serving.question import Case
from p5jax.serving.ranker import Prompted, Ranker
from p5jax.serving.settings import BULK_DEFAULTS, BulkConfig
from p5jax.training.checkpoints import params_fingerprint

# Parquet readers pass over names that begin with an underscore.
RANKING_FOLDER = OutputFolder(
    kind="folder of recommendations",
    manifest="_ranking.json",
    version=1,
    command="p5jax rank",
    version_key="",
)
PART_BATCHES = 16  # of a part, which is what an interruption loses at most
_SCHEMA = pa.schema(
    {
        "user": pa.string(),
        "items": pa.list_(pa.string()),
        "log_probabilities": pa.list_(pa.float32()),
        "exact": pa.bool_(),
    }
)


@released()
def rank_users(
    ranker: Ranker,
    out: str | os.PathLike[str],
    config: BulkConfig = BULK_DEFAULTS,
    report: Report = distributed.report,
    shard: str | None = None,
) -> None:
    """Write every user's k best next items to `out`/part-*.parquet.

    shard: "2/4" writes every fourth part from the second one, for merge_rankings.

    A row holds the user's key, the items' keys, best first, their log-probabilities and whether the
    list is guaranteed to be the model's best. Users come in the order of their prompts' lengths, so
    that batches have few shapes. Parts that are there are not computed again. Interrupted by a
    signal, after which the same call resumes. UserError when `out` holds another ranking.
    A run on a mesh ranks on all its devices and processes, each of which must call this.
    """
    ranker.check_k(config.k)
    out, share = Path(out), Shard.read(shard or "1/1")
    names = ranker.next_item_prompts(config.prompts)
    config = replace(config, prompts=names)
    dataset = ranker.run.dataset
    cases = (Case.of_user(dataset, user) for user in range(dataset.num_users))
    asked = ranker.prompted(cases, names)
    lengths = [len(each.prompts[0].tokens) for each in asked]
    order = np.argsort(lengths, kind="stable").tolist()
    for name in names:  # fails, if it must, before the folder is made
        ranker.trie(name, config.method)
    manifest = made_from(ranker, config)
    config = replace(config, batch_size=min(config.batch_size, len(order)))
    size = config.batch_size * PART_BATCHES
    parts = [order[first : first + size] for first in range(0, len(order), size)]
    rows_of = {number: len(part) for number, part in enumerate(parts) if share.takes(number)}
    manifest["shard"] = None if shard is None else str(share)
    if shard is not None:
        manifest["rows"] = list(map(len, parts))
    waiting = distributed.from_primary(lambda: _claimed(out, manifest, rows_of))
    total = sum(rows_of.values())
    done = total - sum(rows_of[number] for number in waiting)
    progress = Progress("ranking", "users", total, report, done)
    with Interruption() as interruption:
        for number in waiting:
            rows: list[dict[str, Any]] = []
            for first in range(0, len(parts[number]), config.batch_size):
                stop = distributed.agreed_signal(interruption.signal)
                if stop is not None:
                    raise Interrupted(
                        stop, "stopped; the same command resumes after the files that are written"
                    )
                users = parts[number][first : first + config.batch_size]
                rows += _rows(ranker, config, [asked[user] for user in users])
                progress.add(len(users))
            if distributed.is_primary():
                write_parquet(part_file(out, number), pa.Table.from_pylist(rows, _SCHEMA))
        stop = distributed.agreed_signal(interruption.signal)
        if stop is not None:
            raise Interrupted(stop, "finished all files, then stopped")


def part_file(out: Path, number: int) -> Path:
    """Return the file of a part."""
    return out / f"part-{number:05d}.parquet"


def read_part(file: Path, rows: int) -> None:
    """Raise UserError for a part that is damaged or has another number of rows."""
    found = read_parquet(file, _SCHEMA, "recommendations; delete it to make it again").num_rows
    if found != rows:
        raise UserError(f"{file}: found {found} rows, expected {rows}; delete it to make it again")


def _claimed(out: Path, manifest: dict[str, Any], rows: dict[int, int]) -> list[int]:
    """Claim the folder and return the numbers of the parts that it lacks.

    UserError for a part that is there and damaged.
    """
    if RANKING_FOLDER.claim(out, manifest) is None:
        RANKING_FOLDER.write(out, manifest)
    there = [number for number in rows if part_file(out, number).is_file()]
    for number in there:
        read_part(part_file(out, number), rows[number])
    return [number for number in rows if number not in there]


def _rows(ranker: Ranker, config: BulkConfig, asked: list[Prompted]) -> list[dict[str, Any]]:
    """The rows of one batch of users."""
    found = ranker.ranked(asked, config)
    dataset = ranker.run.dataset
    return [
        {
            "user": dataset.user_keys[each.case.user],
            "items": [dataset.item_keys[item] for item in items if item >= 0],
            "log_probabilities": logp[items >= 0].tolist(),
            "exact": bool(exact),
        }
        for each, items, logp, exact in zip(
            asked, found.items, found.logp, found.exact, strict=True
        )
    ]


def made_from(ranker: Ranker, config: BulkConfig) -> dict[str, Any]:
    """Return, JSON-able, all that decides what is recommended to a case."""
    run, triggers = ranker.run, ranker.triggers
    memory = ranker.memory if config.memory else None
    made = {
        "dataset": run.dataset.fingerprint,
        "leaky_item_ids": run.dataset.leaky,
        "params": params_fingerprint(run.params),
        "likelihood": run.model.config.likelihood,
        "triggers": triggers.fingerprint if triggers else None,
        **asdict(config),
        "memory": None if memory is None else _remembered(memory),
    }
    return dict(as_json(made))


def _remembered(memory: Memory) -> dict[str, Any]:
    return {**asdict(memory.settings), "interactions": int(memory.counts.sum())}
