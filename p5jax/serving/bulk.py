"""Recommendations for every user of a dataset, as a folder of Parquet files."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from p5jax.core.errors import Interrupted, UserError
from p5jax.core.files import replace_text
from p5jax.core.interruption import Interruption
from p5jax.core.progress import Progress, Report
from p5jax.evaluation.evaluators import params_digest
from p5jax.inference.ranking import rank
from p5jax.inference.settings import check_settings
from p5jax.parallel import distributed
from p5jax.pipeline.batching import padded
from p5jax.serving.recommender import Recommender

MANIFEST = "_ranking.json"  # Parquet readers pass over names that begin so
_BATCHES = 16  # of a part, which is what an interruption loses at most
_SCHEMA = pa.schema(
    {
        "user": pa.string(),
        "items": pa.list_(pa.string()),
        "log_probabilities": pa.list_(pa.float32()),
        "exact": pa.bool_(),
    }
)


@dataclass(frozen=True)
class BulkConfig:
    """What is ranked for each user; `method`, `beam` and `exact` as in inference.ranking.rank, and
    the prompt, where none is named, as Recommender.recommend has it."""

    k: int = 10
    prompt: str | None = None
    method: str = "certified"
    beam: int = 64
    exact: bool = False
    exclude_history: bool = True
    batch_size: int = 16

    def __post_init__(self) -> None:
        check_settings(self.k, self.beam, self.method, self.exact)
        if self.batch_size < 1:
            raise UserError(f"batch_size: found {self.batch_size}, expected at least 1")


def rank_users(
    recommender: Recommender,
    out: str | os.PathLike[str],
    config: BulkConfig = BulkConfig(),
    report: Report = distributed.report,
) -> None:
    """Write every user's k best next items to `out`/part-*.parquet.

    A row holds the user's key, the items' keys, best first, their log-probabilities and whether the
    list is exact. Users come in the order of their prompts' lengths, so that batches have few
    shapes. Parts that are there are not computed again. Interrupted by a signal, after which the
    same call resumes. UserError when `out` holds another ranking.
    A run on a mesh ranks on all its devices and processes, each of which must call this.
    """
    recommender.check_k(config.k)
    run, out = recommender.run, Path(out)
    everyone = range(run.dataset.num_users)
    prompt = recommender.own_prompt("sequential", config.prompt, "2-3")
    config = replace(config, prompt=prompt)
    prompts = recommender.history_prompts(everyone, prompt)
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    recommender.trie(config.method)  # fails, if it must, before the folder is made
    manifest = _manifest(recommender, config)
    config = replace(config, batch_size=min(config.batch_size, len(order)))
    size = config.batch_size * _BATCHES
    parts = [order[first : first + size] for first in range(0, len(order), size)]
    waiting = distributed.from_primary(lambda: _claimed(out, manifest, len(parts)))
    done = len(order) - sum(len(parts[number]) for number in waiting)
    progress = Progress("ranking", "users", len(order), report, done)
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
                rows += _ranked(recommender, config, users, [prompts[user] for user in users])
                progress.add(len(users))
            if distributed.is_primary():
                _write(_file(out, number), rows)


def _file(out: Path, number: int) -> Path:
    return out / f"part-{number:05d}.parquet"


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    beside = file.with_name(f".{file.name}.partial")
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), beside, compression="zstd")
    beside.rename(file)


def _claimed(out: Path, manifest: dict[str, Any], parts: int) -> list[int]:
    """Claim the folder and return the numbers of the parts that it lacks."""
    _claim(out, manifest)
    return [number for number in range(parts) if not _file(out, number).is_file()]


def _ranked(
    recommender: Recommender, config: BulkConfig, users: np.ndarray, prompts: list[list[int]]
) -> list[dict[str, Any]]:
    """The rows of one batch of users."""
    run, count = recommender.run, len(users)
    users = np.resize(users, config.batch_size)  # the last batch of a part is filled up
    ranking = rank(
        run.model,
        run.params,
        padded([prompts[row % count] for row in range(config.batch_size)]),
        recommender.trie(config.method),
        config.k,
        config.method,
        beam=config.beam,
        exact=config.exact,
        exclude=recommender.excluded(users, config.exclude_history),
    )
    keys, items = run.dataset.user_keys, run.dataset.item_keys
    return [
        {
            "user": keys[user],
            "items": [items[item] for item in row if item >= 0],
            "log_probabilities": logp[row >= 0].tolist(),
            "exact": bool(exact),
        }
        for user, row, logp, exact in zip(users[:count], *ranking, strict=False)
    ]


def _manifest(recommender: Recommender, config: BulkConfig) -> dict[str, Any]:
    run, triggers = recommender.run, recommender.triggers
    return {
        "dataset": run.dataset.fingerprint,
        "leaky_item_ids": run.dataset.leaky,
        "params": params_digest(run.params),
        "likelihood": "vocabulary",
        "triggers": triggers.fingerprint if triggers else None,
        **asdict(config),
    }


def _claim(out: Path, manifest: dict[str, Any]) -> None:
    """Make the folder, or check that it holds the same ranking."""
    file = out / MANIFEST
    if not file.is_file():
        if out.exists() and (
            not out.is_dir() or any(child.name != f"{MANIFEST}.partial" for child in out.iterdir())
        ):
            raise UserError(f"{out}: exists and is no folder of recommendations; choose another")
        out.mkdir(parents=True, exist_ok=True)
        replace_text(file, json.dumps(manifest, indent=1) + "\n")
        return
    try:
        there = json.loads(file.read_text(encoding="utf-8")) | {}
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: found {error}, expected what p5jax rank writes") from error
    for name, value in manifest.items():
        if there.get(name) != value:
            raise UserError(
                f"{out}: holds a ranking with {name} = {there.get(name)!r}, expected {value!r};"
                " choose another folder"
            )
