"""A memory beside a run: chosen, kept, and in evaluations and recommendations from then on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from small_model import RUN_MODEL, log_probabilities

from p5jax.core.errors import UserError
from p5jax.core.tables import write_parquet
from p5jax.evaluation.evaluators import evaluate_run
from p5jax.evaluation.settings import EvaluationConfig
from p5jax.inference.mixing import Mixing
from p5jax.jobs.count_pairs import count_pairs
from p5jax.jobs.evaluate import evaluate
from p5jax.jobs.fit_memory import fit_memory
from p5jax.memory.memory import Memory
from p5jax.memory.settings import MemorySettings
from p5jax.models.t5 import init_params
from p5jax.prompts.families import FamilyConfig
from p5jax.reports.run_report import write_report
from p5jax.runs.run import Run, RunConfig
from p5jax.runs.stored_memory import store_memory, stored_memory
from p5jax.serving.bulk import RANKING_FOLDER
from p5jax.serving.question import Case
from p5jax.serving.recommender import Recommender
from p5jax.serving.settings import BulkConfig

CONFIG = EvaluationConfig(batch_size=16)
LIMIT = 32
CHOSEN = {"prompt": "2-3", "users": 3, "model": 0.1, "mixed": 0.2}


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("remembering") / "run"
    config = RunConfig(str(world.path), str(folder), prompts=("2-3", "1-6"), vocabulary_size=600)
    run = Run.create(config, FamilyConfig(max_source=256, num_candidates=10), RUN_MODEL)
    run.write()
    params = init_params(run.model, jax.random.key(0))
    params["token_embedder"]["embedding"] *= 5
    return run.with_params(params)


@pytest.fixture(scope="module")
def choices(run):
    return fit_memory(run, limit=LIMIT, config=CONFIG)


def test_the_choice_is_what_an_evaluation_of_the_same_users_finds(run, choices):
    memory = stored_memory(run)
    assert memory.settings == choices.best.settings
    assert (choices.prompt, choices.users) == ("2-3", LIMIT)
    found = evaluate(run, "validation", prompts=["2-3"], limit=LIMIT, config=CONFIG)
    rows = {row.prompt_id: row for row in found}
    assert rows["2-3"].metrics["NDCG@10"][0] == pytest.approx(choices.rows[0].ndcg)
    assert rows["2-3+memory"].metrics["NDCG@10"][0] == pytest.approx(choices.best.ndcg)
    assert choices.best.ndcg > choices.rows[0].ndcg  # an untrained model
    assert rows["2-3+memory"].metrics["certified"][0] == 1
    assert rows["memory"].baseline
    without = evaluate(
        run, "validation", prompts=["2-3"], limit=LIMIT, config=replace(CONFIG, memory=False)
    )
    assert not {"memory", "2-3+memory"} & {row.prompt_id for row in without}
    folders = {path.name for path in (run.path / "evaluation").iterdir() if path.is_dir()}
    assert {f"validation-limit-{LIMIT}", f"validation-limit-{LIMIT}-no-memory"} <= folders


def test_a_memory_alone_is_the_baseline_that_counts_the_same(run):
    memory = Memory.of(run.dataset, MemorySettings())
    found = evaluate_run(run, prompts=["2-3"], limit=LIMIT, config=CONFIG, memory=memory)
    rows = {row.prompt_id: row for row in found}
    assert rows["memory"].per_user["rank"] == rows["co_occurrence"].per_user["rank"]
    assert rows["memory"].metrics == rows["co_occurrence"].metrics


def test_pairs_that_are_stored_are_not_counted_again(run, choices):
    counted = stored_memory(run).sums
    folder = count_pairs(run.dataset)
    assert (stored_memory(run).sums != counted).nnz == 0
    (file,) = folder.glob("*.parquet")
    table = pq.read_table(file)
    write_parquet(file, table.set_column(2, "sum", pc.multiply(table["sum"], 2.0)))
    assert (stored_memory(run).sums != 2 * counted).nnz == 0
    shutil.rmtree(folder)


@pytest.fixture
def remembering(run):
    store_memory(run, MemorySettings(0.25, 0.5, Mixing("mixture", 0.7)), CHOSEN)
    return Recommender(run)


def test_lists_and_scores_are_the_mixture_of_all_items(run, world, remembering):
    users = world.user_keys[:3]
    ids = [[*run.vocabulary.encode(id), 1] for id in world.item_ids]
    cases = [Case.of_user(world, user) for user in range(3)]
    tokens = [each.prompts[0] for each in remembering.prompted(cases, ["2-3"])]
    left_out = remembering.excluded(cases, history=True)
    beside = remembering.beside(cases, left_out, True)
    lists = remembering.recommend(users, 7)
    scores = remembering.score(users, world.item_keys)
    for user, found in enumerate(lists):
        logp = log_probabilities(run.model, run.params, np.array([tokens[user].tokens]), ids)[0]
        shares = np.zeros(world.num_items + 1)
        shares[beside.items[user]] = beside.shares[user]
        mixed = np.log(0.3 * np.exp(logp) + 0.7 * shares[:-1])
        np.testing.assert_allclose(scores[user], mixed, atol=1e-4)
        mixed[world.sequence(user)] = -np.inf
        assert found.exact
        best = [item.log_probability for item in found.items]
        np.testing.assert_allclose(best, -np.sort(-mixed)[:7], atol=1e-4)


def test_new_interactions_are_recommended_at_once(world, remembering):
    users = world.user_keys[:3]
    before = remembering.recommend(users, 7)[0]
    last, stranger = world.sequence(0)[-1], world.item_keys[0]
    known = {item.item for item in before.items} | {world.item_keys[i] for i in world.sequence(0)}
    stranger = next(key for key in world.item_keys if key not in known)
    remembering.remember([[world.item_keys[last], stranger]] * 60)
    after = remembering.recommend(users, 7)[0]
    assert after.items[0].item == stranger
    alone = remembering.recommend(users, 7, memory=False)[0]
    assert alone == Recommender(remembering.run).recommend(users, 7, memory=False)[0]
    with pytest.raises(UserError, match="item 'unknown' is not in the dataset"):
        remembering.remember([["unknown"]])


@pytest.mark.check
def test_lists_of_all_users_say_what_was_remembered(world, remembering, tmp_path):
    small = BulkConfig(k=2, batch_size=64)
    remembering.recommend_all(tmp_path / "out", small, report=len)
    remembered = RANKING_FOLDER.read(tmp_path / "out")["memory"]
    assert remembered["mixing"] == {"rule": "mixture", "weight": 0.7, "floor": 1e-3}
    assert remembered["interactions"] == len(world.sequence_items) - 2 * world.num_users
    with pytest.raises(UserError, match="found memory = .*, expected None"):
        remembering.recommend_all(tmp_path / "out", replace(small, memory=False), report=len)


def test_a_report_names_the_memory(run, remembering):
    page = write_report(run.path).read_text()
    assert "mixture, weight 0.7, temperature 0.5, 25% by text" in page


def test_a_memory_of_other_parameters_is_refused(run, remembering):
    other = run.with_params(jax.tree.map(lambda leaf: leaf * 2, run.params))
    words = "memory.json: chosen for other parameters .* p5jax memory, .* --no-memory"
    with pytest.raises(UserError, match=words):
        Recommender(other).recommend(run.dataset.user_keys[:3], 7)
    assert Recommender(other).recommend(run.dataset.user_keys[:3], 7, memory=False)[0].items


def test_a_damaged_memory_is_one_line(run, remembering):
    file = run.path / "memory.json"
    good = json.loads(file.read_text())
    good["settings"]["mixing"]["weight"] = 1.5
    file.write_text(json.dumps(good))
    with pytest.raises(UserError, match=r"memory.json: settings: .*Mixing.weight: found 1.5"):
        stored_memory(run)


def test_a_run_without_a_memory_remembers_nothing(run, remembering):
    (run.path / "memory.json").unlink()
    assert stored_memory(run) is None
    with pytest.raises(UserError, match="has no memory; choose one with p5jax memory"):
        Recommender(run).remember([[run.dataset.item_keys[0]]])
    with pytest.raises(UserError, match="prompt"):
        fit_memory(run, prompt="1-6")
