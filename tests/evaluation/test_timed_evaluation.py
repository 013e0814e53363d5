"""A run on a split by time: who is asked about what, who is warm, and the same in shards."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from family_world import AMAZON, Thirds, parse
from trigger_run import random_run

from p5jax.cli.main import main
from p5jax.core.errors import UserError
from p5jax.data.building import build_dataset
from p5jax.data.dataset import TEST, TRAIN, Dataset
from p5jax.data.readers.synthetic import synthetic_raw
from p5jax.evaluation.evaluators import evaluate_run
from p5jax.evaluation.merging import merge_evaluations
from p5jax.evaluation.results import SUMMARY, format_results, load_results, read_summary
from p5jax.evaluation.settings import EvaluationConfig
from p5jax.jobs.merge import merge
from p5jax.ppr.backbone.catalogue import catalogue_result
from p5jax.prompts.families import FamilyConfig, make_families

PROMPTS = ("2-3", "1-1", "5-8", "3-1")
CONFIG = EvaluationConfig(batch_size=8, beam=32, max_length=6)
RAW = synthetic_raw(users=60, items=40, seed=0)
CUTS = np.quantile(RAW.timestamp, (0.6, 0.8)).astype(int).tolist()


@pytest.fixture(scope="module")
def timed(tmp_path_factory) -> Dataset:
    out = tmp_path_factory.mktemp("timed") / "d"
    build_dataset(RAW, out, split=f"time:{CUTS[0]},{CUTS[1]}")
    return Dataset.load(out)


@pytest.fixture(scope="module")
def run(timed, tmp_path_factory):
    return random_run(timed.path, tmp_path_factory.mktemp("run") / "run", vocabulary_size=400)


def evaluated(run, path: Path, shard: str | None = None):
    there = SimpleNamespace(
        **{name: getattr(run, name) for name in ("dataset", "vocabulary", "model", "params")},
        families=run.families,
        path=path,
    )
    return evaluate_run(
        there, prompts=PROMPTS, config=CONFIG, report=lambda line: None, shard=shard
    )


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    results = evaluated(run, path)
    return next((path / "evaluation").iterdir()), results


def rows_of(dataset: Dataset, user: int) -> list[dict]:
    return [row for row in dataset.interactions.to_pylist() if row["user"] == user]


def test_rankings_ask_each_held_out_user_about_the_first_item_after_the_cut(timed):
    families = make_families(timed, AMAZON, Thirds(), FamilyConfig(num_candidates=8))
    numbers = {text: item for item, text in enumerate(timed.item_ids)}
    for split, cut in zip(("validation", "test"), CUTS, strict=True):
        last = math.inf if split == "test" else CUTS[1]
        expected = {}
        for user in range(timed.num_users):
            rows = rows_of(timed, user)
            later = [row["item"] for row in rows if cut <= row["timestamp"] < last]
            if later:
                expected[user] = later[0], [r["item"] for r in rows if r["timestamp"] < cut]
        assert any(not history for _, history in expected.values())  # cold users, too
        for name, prompt in (("sequential", "2-3"), ("direct", "5-8")):
            family = families[name]
            assert family.users(split, prompt).tolist() == list(expected)
            for index, (user, (item, history)) in enumerate(expected.items()):
                example = family.example(split, index, prompt_id=prompt)
                assert (example.user, example.item) == (user, item)
                if example.candidates is not None:
                    mine = {row["item"] for row in rows_of(timed, user)} - {item}
                    assert not mine & set(example.candidates.tolist())
                    assert item in example.candidates
                if name == "sequential":
                    said = parse(family.template(prompt), example.inputs)["hist"]
                    assert [numbers[id] for id in said.split(" , ") if id] == history


def test_other_families_ask_about_every_held_out_row_each_with_a_coin_of_its_own(timed):
    families = make_families(timed, AMAZON, Thirds(), FamilyConfig())
    rating = families["rating"]
    rows = timed.interactions.to_pylist()
    rated = [(r["user"], r["item"]) for r in rows if r["split"] == TEST and r["rating"]]
    asked = [rating.example("test", n, prompt_id="1-3") for n in range(rating.size("test", "1-3"))]
    assert [(example.user, example.item) for example in asked] == rated
    answers: dict[int, set] = {}
    for example in asked:
        answers.setdefault(example.user, set()).add(example.answer)
    assert any(len(found) == 2 for found in answers.values())
    training = families["sequential"]
    lengths = [len(items) for items in timed.training_sequences]
    config = training.source.config
    assert training.size("train") == sum(n > 1 for n in lengths) * config.sequential_per_user
    direct = families["direct"]
    assert direct.size("train") == sum(n > 0 for n in lengths) * config.direct_per_user


def test_figures_of_all_and_of_warm_users_and_items(timed, whole):
    _, results = whole
    known_items = {r["item"] for r in timed.interactions.to_pylist() if r["split"] == TRAIN}
    known_users = {r["user"] for r in timed.interactions.to_pylist() if r["split"] == TRAIN}
    found = {(r.family, r.kind, r.prompt_id): r for r in results}
    assert found["sequential", "catalogue", "2-3"].n == len(timed.held_out_users("test"))
    assert found["rating", "rating", "1-1"].n == timed.manifest["counts"]["test_interactions"]
    told = format_results(results)
    for key, result in found.items():
        if key[2].endswith("-warm"):
            continue
        rows = result.per_user.to_pylist()
        warm = [r for r in rows if r["user"] in known_users and r["item"] in known_items]
        assert [r["warm"] for r in rows] == [int(r in warm) for r in rows]
        assert 0 < len(warm) < len(rows)
        beside = found[(*key[:2], f"{key[2]}-warm")]
        assert beside.n == len(warm)
        assert f"{result.label}, warm users and items" in told
        for name in set(result.per_user.column_names) & set(result.metrics):
            value = beside.metrics[name][0]
            assert value == pytest.approx(np.mean([row[name] for row in warm]))
        if result.kind == "rating":
            errors = [row["prediction"] - row["reference"] for row in warm]
            assert beside.metrics["RMSE"][0] == pytest.approx(np.sqrt(np.mean(np.square(errors))))


def test_a_scorer_of_sequences_is_asked_about_the_same(timed):
    def scorer(users, items, candidates):
        return np.zeros((len(users), timed.num_items), np.float32)

    result = catalogue_result(scorer, "flat", timed, "test", width=5)
    assert result.per_user["user"].to_pylist() == timed.held_out_users("test").tolist()


@pytest.fixture(scope="module")
def shards(run, tmp_path_factory):
    folders = []
    for number in (1, 2, 3):
        path = tmp_path_factory.mktemp(f"shard{number}")
        evaluated(run, path, f"{number}/3")
        (folder,) = (path / "evaluation").iterdir()
        assert folder.name.endswith(f"-shard-{number}-of-3")
        folders.append(folder)
    return folders


def refusal(folders, out, capsys) -> str:
    status = main(["merge", *map(str, folders), "--out", str(out)])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    assert not Path(out).exists()
    return line


def test_merged_shards_are_one_job_row_for_row_and_interval_for_interval(
    whole, shards, tmp_path, capsys
):
    folder, results = whole
    out = tmp_path / "runs" / "test"
    assert main(["merge", *map(str, reversed(shards)), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    for line in format_results(results).splitlines():  # of each table, in another order
        assert line in said.splitlines()
    one, merged = read_summary(folder), read_summary(out)
    assert merged.keys() == one.keys()
    for name in one.keys() - {"results"}:
        assert merged[name] == one[name]
    for mine, theirs in zip(load_results(folder), load_results(out), strict=True):
        assert mine.file == theirs.file
        assert mine.n == theirs.n
        rows, found = (pq.read_table(each / mine.file) for each in (folder, out))
        assert rows.schema == found.schema
        for name in rows.column_names:  # batches of others round otherwise
            if pa.types.is_floating(rows[name].type):
                np.testing.assert_allclose(rows[name], found[name], rtol=1e-5, err_msg=mine.file)
            else:
                assert rows[name].to_pylist() == found[name].to_pylist()
        figures = [np.array([*each.metrics.values()]) for each in (mine, theirs)]
        np.testing.assert_allclose(*figures, rtol=1e-5, err_msg=mine.file)
        assert [*mine.metrics] == [*theirs.metrics]


def test_a_merge_of_anything_but_each_shard_once_writes_nothing(whole, shards, tmp_path, capsys):
    out = tmp_path / "out"
    said = refusal([shards[0], shards[2]], out, capsys)
    assert "merge: shard 2/3 is missing, found 1/3, 3/3; p5jax evaluate --shard 2/3 makes" in said
    assert "found shard 1/3, as" in refusal([*shards, shards[0]], out, capsys)
    assert "found no shard, expected what p5jax evaluate" in refusal([whole[0]], out, capsys)
    other = tmp_path / "other"
    shutil.copytree(shards[1], other)
    document = json.loads((other / SUMMARY).read_text())

    def changed(**values):
        (other / SUMMARY).write_text(json.dumps(document | values))
        return refusal([shards[0], other, shards[2]], out, capsys)

    assert "found params = 'x', expected" in changed(params="x")
    assert "found shards = 4, expected 3" in changed(shard="2/4")
    assert "found '7/3', expected I/N" in changed(shard="7/3")
    fewer = [row for row in document["results"] if row["prompt"] != "5-8"]
    assert "lacks direct_5-8.parquet, which" in changed(results=fewer)
    with pytest.raises(UserError, match="expected another folder to write"):
        merge_evaluations(shards, shards[1])
    assert load_results(shards[1])
    table = pa.table({"user": pa.array([], pa.int32())})
    pq.write_table(table, other / "direct_5-8.parquet")
    assert "direct_5-8.parquet: column 'item' is missing" in changed()
    with pytest.raises(UserError, match="not a folder of recommendations|is missing"):
        merge([tmp_path / "none"], out)


@pytest.mark.parametrize(("shard", "message"), [("0/2", "expected I/N"), ("1/999", "for each of")])
def test_a_shard_without_a_share_is_refused(run, tmp_path, shard, message):
    with pytest.raises(UserError, match=f"shard: found .*{message}"):
        evaluated(run, tmp_path, shard)
