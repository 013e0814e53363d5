"""A run asked about another dataset: users by key, held-out rows of known users alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from family_world import parse, write_world
from trigger_run import random_run

from p5jax.core.errors import UserError
from p5jax.data.building import build_dataset
from p5jax.data.dataset import Dataset
from p5jax.data.readers.synthetic import synthetic_raw
from p5jax.data.shared_users import with_users_of
from p5jax.evaluation.settings import EvaluationConfig
from p5jax.jobs.evaluate import evaluate
from p5jax.runs.other_domain import asked_about

CONFIG = EvaluationConfig(batch_size=8, max_length=4)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A dataset of which a part of the users is in `world`."""
    path = tmp_path_factory.mktemp("other") / "dataset"
    build_dataset(synthetic_raw(users=140, items=60, seed=7), path, scheme="token", seed=3)
    return Dataset.load(path)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    return random_run(world.path, tmp_path_factory.mktemp("asked") / "run")


def rows_of(dataset, table, shared=None):
    return Counter(
        (dataset.user_keys[row["user"]], *(value for key, value in row.items() if key != "user"))
        for row in getattr(dataset, table).to_pylist()
        if shared is None or row["split"] == 0 or dataset.user_keys[row["user"]] in shared
    )


def test_known_users_have_their_numbers_and_only_they_have_held_out_rows(world, other):
    joined = with_users_of(other, world)
    shared = set(world.user_keys) & set(other.user_keys)
    assert 0 < len(shared) < len(other.user_keys)
    assert joined.user_keys[: world.num_users] == world.user_keys
    assert joined.user_names[: world.num_users] == world.user_names
    assert sorted(joined.user_keys) == sorted({*world.user_keys, *other.user_keys})
    for table in ("interactions", "reviews"):
        assert rows_of(joined, table) == rows_of(other, table, shared)
    known = world.user_index(next(iter(sorted(shared))))
    theirs = other.sequence(other.user_index(world.user_keys[known])).tolist()
    assert joined.sequence(known).tolist() == theirs
    assert (np.diff(joined.interactions["user"].to_numpy()) >= 0).all()


def test_zero_shot_prompts_ask_known_users_about_the_others_items(run, world, other):
    results = evaluate(run, "test", ["rating"], None, 20, CONFIG, dataset=other.path)
    zero_shot = {id for id, t in run.templates.items() if t.zero_shot and t.family == "rating"}
    assert {r.prompt_id for r in results if not r.baseline} == zero_shot
    template = run.templates["Z-2"]
    family = asked_about(run, other).families["rating"]
    assert not {"1-1", "1-5"} & set(family.templates)
    shared = set(world.user_keys) & set(other.user_keys)
    keys = set()
    for index in range(family.size("test", "Z-2")):
        example = family.example("test", index, prompt_id="Z-2")
        said = parse(template, example.inputs)
        assert said["title"] == other.titles[example.item]
        assert said["udesc"] == world.user_names[example.user]
        keys.add(world.user_keys[example.user])
    assert keys == shared
    train = [row for row in other.interactions.to_pylist() if row["split"] == 0]
    (mean,) = (r for r in results if r.prompt_id == "global_mean")
    expected = np.mean([int(row["rating"] + 0.5) for row in train])
    assert mean.per_user["prediction"][0].as_py() == pytest.approx(expected)
    (frequent,) = (r for r in results if r.prompt_id == "most_frequent_answer")
    likes = [row["rating"] >= 4 for row in train]
    answer = "like" if np.mean(likes) >= 0.5 else "dislike"
    assert set(frequent.per_user["prediction"].to_pylist()) == {answer}
    right = [answer == said for said in frequent.per_user["reference"].to_pylist()]
    assert frequent.metrics["accuracy"][0] == pytest.approx(np.mean(right))
    (folder,) = (run.path / "evaluation").iterdir()
    assert folder.name == f"test-limit-20-max_length-4-about-{other.fingerprint[:8]}"


def test_what_cannot_be_asked_is_refused_in_one_line(run, world, other, tmp_path):
    strangers = write_world(tmp_path / "strangers")
    wordless = write_world(tmp_path / "wordless", ratings=False, texts=False)
    cases = [
        ({"dataset": world.path}, "found the run's own dataset"),
        ({"dataset": strangers.path}, f"found no user of {world.path}"),
        ({"dataset": wordless.path}, "feeds sequential, direct, expected one of the run's"),
        ({"dataset": other.path, "prompts": ["1-1"]}, "prompts: '1-1' is not a prompt of rating"),
        ({"dataset": other.path, "families": ["direct"]}, "families: found 'direct'"),
        ({"dataset": other.path, "families": ["review"]}, "no test record has all that a zero"),
        ({"dataset": other.path, "triggers": tmp_path}, "expected one of the two"),
    ]
    for given, message in cases:
        with pytest.raises(UserError, match=message):
            evaluate(run, **given)
