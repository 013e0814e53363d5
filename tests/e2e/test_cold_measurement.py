"""The measurement of cold items as a whole: what it trains on, what it writes, what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
from tiny_training import BATCH_SIZE, BINDINGS, FILES, STEPS

from p5jax.core.errors import UserError
from p5jax.data.cold_items import ColdItemsConfig, are_cold
from p5jax.data.dataset import Dataset
from p5jax.evaluation.cold_items import SHOWN
from p5jax.jobs.cold_items import COLD_FOLDER, cold_items
from p5jax.memory.memory import Memory
from p5jax.runs.run import Run
from p5jax.runs.stored_memory import stored_memory
from p5jax.serving.question import Question
from p5jax.serving.recommender import Recommender

MACROS = {"STEPS": STEPS, "BATCH_SIZE": BATCH_SIZE}


def measured(world, out, config: ColdItemsConfig):
    return cold_items(world, out, *FILES, config=config, bindings=BINDINGS, **MACROS)


def test_without_a_cold_item_nothing_is_trained(world, tmp_path):
    with pytest.raises(UserError, match="found no user with a cold test item, expected some"):
        measured(world, tmp_path / "out", ColdItemsConfig(share=1e-6))
    assert not (tmp_path / "out" / "run").exists()


def test_another_measurement_is_refused(world, tmp_path):
    COLD_FOLDER.write(tmp_path, {"dataset": world.fingerprint, "share": 0.2, "seed": 0})
    with pytest.raises(UserError, match="found share = 0.2, expected 0.1; choose another folder"):
        measured(world, tmp_path, ColdItemsConfig())


def of_training(base: Dataset, run: Run) -> Memory:
    """The memory of an extended run, of what the base's training split knows alone."""
    whole = stored_memory(run)
    small, more = Memory.of(base, whole.settings), run.dataset.num_items - base.num_items
    sums = sp.block_diag((small.sums, sp.csr_array((more, more))), "csr")
    return replace(whole, counts=np.pad(small.counts, (0, more)), sums=sp.csr_array(sums))


@pytest.mark.check
def test_ranks_are_those_of_the_lists_that_the_extended_run_gives(world, tmp_path):
    config = ColdItemsConfig(share=0.25, interactions=(0, 2), limit=12)
    rows = measured(world, tmp_path / "out", config)
    assert [(row.interactions, row.method) for row in rows] == [
        (told, method)
        for told in (None, 0, 0, 0, 2, 2, 2)
        for method in ("model", "model and memory", "popularity", "co-occurrence", "text")
    ]
    cold = {
        key
        for key, is_cold in zip(world.item_keys, are_cold(world, config), strict=True)
        if is_cold
    }
    base = Dataset.load(tmp_path / "out" / "data")
    assert cold.isdisjoint(base.item_keys)
    lists = [row for row in rows if row.method.startswith("model") and "cold:" in row.what]
    for told in config.interactions:
        recommender = Recommender.load(Run.load(tmp_path / "out" / f"run-{told}"))
        assert set(recommender.run.dataset.item_keys) == {*base.item_keys, *cold}
        for row in (row for row in lists if row.interactions == told):
            memory = row.method == "model and memory"
            if memory and told:
                continue
            if memory:
                recommender._memory = of_training(base, recommender.run)
            candidates = tuple(sorted(cold)) if "among the cold" in row.what else None
            for user, rank in zip(row.asked.users, row.ranks, strict=True):
                index = world.user_index(user)
                target = world.item_keys[world.target(index, "test")]
                history = [world.item_keys[i] for i in world.history(index, "test")]
                asked = Question(user, tuple(i for i in history if i in base.item_keys), candidates)
                (found,) = recommender.recommend([asked], 10, memory=memory)
                listed = [item.item for item in found.items]
                assert target in cold
                assert rank == (listed.index(target) if target in listed else np.inf)
    document = json.loads((tmp_path / "out" / "cold_items.json").read_text())
    assert len(document["figures"]) == len(rows)
    table = pq.read_table(tmp_path / "out" / "users.parquet")
    hits = table.filter(np.array(table["method"].to_pylist()) == "model")["rank"].to_numpy()
    assert np.mean(hits >= 0) == pytest.approx(
        np.average(
            [row.metrics[SHOWN[0]][0] for row in rows if row.method == "model"],
            weights=[len(row.ranks) for row in rows if row.method == "model"],
        )
    )
