"""How a model ranks items that it was not trained on: kept from everything, then told of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from p5jax.core.errors import UserError
from p5jax.core.folder import OutputFolder, as_json
from p5jax.core.lock import released
from p5jax.core.progress import Progress
from p5jax.core.tables import write_parquet
from p5jax.data.cold_items import ColdItemsConfig, are_cold, told_later, write_without
from p5jax.data.dataset import DATASET_FOLDER, Dataset
from p5jax.data.extending import Extension
from p5jax.data.item_vectors import item_texts
from p5jax.evaluation.cold_items import Asked, Measured, baseline_ranks
from p5jax.evaluation.rank_metrics import LIST_LENGTH
from p5jax.evaluation.task import chosen_indices
from p5jax.jobs.extend import write_extended
from p5jax.jobs.fit_memory import fit_memory
from p5jax.jobs.start import Bindings, PathName, refuse_leaks
from p5jax.jobs.train import train
from p5jax.memory.memory import Memory
from p5jax.parallel import distributed
from p5jax.runs.run import Run
from p5jax.runs.stored_memory import stored_memory
from p5jax.serving.question import Case
from p5jax.serving.ranker import Ranker
from p5jax.serving.settings import BulkConfig

COLD_FOLDER = OutputFolder("measurement of cold items", "cold_items.json", 1, "p5jax cold-items")
USERS = "users.parquet"  # a row for each user and method
COLD_AMONG_COLD = "users whose next item is cold: ranked among the cold items"
COLD_AMONG_ALL = "users whose next item is cold: ranked among all items"
WARM = "users whose next item is warm: ranked among all items"


@released()
def cold_items(
    dataset: Dataset | PathName,
    out: PathName,
    *gin_files: PathName,
    config: ColdItemsConfig = ColdItemsConfig(),  # noqa: B008  (frozen)
    bindings: Bindings | None = None,
    **macros: object,
) -> list[Measured]:
    """Train a model without a share of a dataset's items, let them join, and measure its lists.

    The items' interactions are in nothing that the model is made from. They join with their texts,
    and as many interactions of the training split as `config` says, by jobs.extend; then the test
    items of the dataset are ranked: cold ones among the cold items and among all, warm ones before
    and after the others joined. Histories hold warm items only. Beside the model stands what it and
    its memory say together, chosen without the cold items, and baselines that know the same
    interactions and texts.
    gin_files, bindings, macros: as jobs.train.train takes them, but for DATASET and RUN_DIR, which
    are OUT/data and OUT/run. The call resumes a training that was interrupted. Ranks are written to
    OUT/users.parquet, figures to OUT/cold_items.json. UserError for a dataset that leaks or has no
    test item that is cold, and for a folder of another measurement.
    """
    data = refuse_leaks(dataset if isinstance(dataset, Dataset) else Dataset.load(dataset))
    out, cold = Path(out).absolute(), are_cold(data, config)
    chosen = {name: asdict(config)[name] for name in ("share", "seed")}
    manifest = as_json({"dataset": data.fingerprint, **chosen})
    COLD_FOLDER.claim(out, manifest)
    COLD_FOLDER.write(out, manifest)
    if not DATASET_FOLDER.is_at(out / "data"):
        write_without(data, cold, out / "data")
    asked, others = (
        _asked(data, Dataset.load(out / "data"), cold, config, is_cold) for is_cold in (True, False)
    )
    settings = {"DATASET": out / "data", "RUN_DIR": out / "run"}
    train(*gin_files, bindings=bindings, **{**macros, **settings})
    run, warm = Run.load(out / "run"), f"{WARM}, {{}} the others joined"
    fit_memory(run, config.prompt)
    known: Sequence[np.ndarray] = run.dataset.training_sequences
    ranker = Ranker(run, memory=_memory_of(run, known))
    rows = _measured(warm.format("before"), None, ranker, others, config, known)
    for count in config.interactions:
        distributed.report(f"{int(cold.sum())} items join, {count} interactions of each are told")
        extension = Extension.of(run.dataset, told_later(data, cold, count), same_source=True)
        write_extended(run, extension, out / f"run-{count}")
        more, known = Run.load(out / f"run-{count}"), extension.new_items.sequences
        ranker = Ranker(more, memory=_memory_of(more, known))
        joined = np.arange(run.dataset.num_items, more.dataset.num_items)
        rows += _measured(COLD_AMONG_COLD, count, ranker, asked, config, known, joined)
        rows += _measured(COLD_AMONG_ALL, count, ranker, asked, config, known)
        rows += _measured(warm.format("after"), count, ranker, others, config, known)
    _write(out, manifest, rows)
    return rows


def _asked(
    data: Dataset, warm: Dataset, cold: np.ndarray, config: ColdItemsConfig, is_cold: bool
) -> Asked:
    """Users whose test item is cold, or is not, and their warm items before it.

    Items have the indices of the catalogue without cold ones, which then follow. UserError where
    there is no such user.
    """
    joined = [data.item_keys[item] for item in np.flatnonzero(cold)]
    item_of = {key: item for item, key in enumerate([*warm.item_keys, *joined])}
    known = set(warm.user_keys)
    users, histories, targets = list[str](), list[np.ndarray](), list[int]()
    for user, key in enumerate(data.user_keys):
        target = data.target(user, "test")
        before = [item for item in data.history(user, "test").tolist() if not cold[item]]
        had = [item_of[k] for k in (data.item_keys[i] for i in before) if k in item_of]
        there = data.item_keys[target] in item_of
        if key in known and had and there and bool(cold[target]) == is_cold:
            users.append(key)
            histories.append(np.array(had, np.int64))
            targets.append(item_of[data.item_keys[target]])
    if not users:
        what = "cold" if is_cold else "warm"
        raise UserError(f"{data.path}: found no user with a {what} test item, expected some")
    asked = Asked(users, histories, np.array(targets))
    return asked.part(chosen_indices(len(users), config.limit, config.seed))


def _measured(
    what: str,
    told: int | None,
    ranker: Ranker,
    asked: Asked,
    config: ColdItemsConfig,
    known: Sequence[np.ndarray],
    among: np.ndarray | None = None,
) -> list[Measured]:
    """Where the model and the baselines, who know sequences of items, put the targets."""
    texts = item_texts(ranker.run.dataset.items)
    rows = []
    for name, memory in {"model": False, "model and memory": True}.items():
        ranks = _model_ranks(ranker, asked, config, memory, among)
        rows.append(Measured(what, told, name, asked, ranks))
    for name, ranks in baseline_ranks(asked, known, texts, among):
        rows.append(Measured(what, told, name, asked, ranks))
    return rows


def _memory_of(run: Run, known: Sequence[np.ndarray]) -> Memory | None:
    """The run's memory, of these sequences alone: an extended run's own has what is held out."""
    memory, items = stored_memory(run), run.dataset.num_items
    if memory is None:
        return None
    nothing = replace(memory, counts=np.zeros(items), sums=sp.csr_array((items, items)))
    return nothing.remembering([sequence.tolist() for sequence in known])


def _model_ranks(
    ranker: Ranker, asked: Asked, config: ColdItemsConfig, memory: bool, among: np.ndarray | None
) -> np.ndarray:
    """The ranks [U] of the targets in the model's lists of ten, np.inf beyond them."""
    run = ranker.run
    prompts = ranker.next_item_prompts(() if config.prompt is None else (config.prompt,))
    length = min(LIST_LENGTH, run.dataset.num_items)
    bulk = BulkConfig(k=length, prompts=prompts, memory=memory)
    users = [run.dataset.user_index(key) for key in asked.users]
    cases = [Case(*each, among) for each in zip(users, asked.histories, strict=True)]
    progress = Progress("ranking", "users", len(cases), distributed.report)
    found = []
    for start in range(0, len(cases), bulk.batch_size):
        part = cases[start : start + bulk.batch_size]
        found.append(ranker.ranked(list(ranker.prompted(part, prompts)), bulk).items)
        progress.add(len(part))
    hits = np.concatenate(found) == asked.targets[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1), np.inf)


def _write(out: Path, manifest: Mapping[str, Any], rows: Sequence[Measured]) -> None:
    tables = [
        pa.table(
            {
                "what": pa.array([row.what] * len(row.ranks), pa.string()),
                "interactions": pa.array([row.interactions] * len(row.ranks), pa.int32()),
                "method": pa.array([row.method] * len(row.ranks), pa.string()),
                "user": pa.array(row.asked.users, pa.string()),
                "rank": pa.array(np.where(row.ranks < LIST_LENGTH, row.ranks, -1).astype(np.int32)),
            }
        )
        for row in rows
    ]
    write_parquet(out / USERS, pa.concat_tables(tables))
    figures = [
        {
            "what": row.what,
            "interactions": row.interactions,
            "method": row.method,
            "n": len(row.ranks),
            "metrics": row.metrics,
        }
        for row in rows
    ]
    COLD_FOLDER.write(out, {**manifest, "figures": figures})
