"""A run with new users, items and interactions: what it answers, and that nothing else changed."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from small_model import RUN_MODEL, log_probabilities

from p5jax.cli.main import main
from p5jax.core.errors import UserError
from p5jax.data.building import build_dataset
from p5jax.data.extending import Extension
from p5jax.data.formats import NewRowsOptions
from p5jax.data.held_out import with_other_held_out
from p5jax.data.item_ids import id_tokens
from p5jax.data.new_ids import new_ids
from p5jax.data.readers.synthetic import synthetic_raw
from p5jax.data.readers.table import read_new
from p5jax.jobs.audit import audit
from p5jax.jobs.evaluate import evaluate
from p5jax.jobs.extend import extend, grown
from p5jax.jobs.fit_memory import fit_memory
from p5jax.memory.settings import MemorySettings
from p5jax.models.t5 import init_params
from p5jax.prompts.families import FamilyConfig
from p5jax.runs.run import Run, RunConfig
from p5jax.runs.stored_memory import store_memory, stored_memory
from p5jax.serving.question import Case
from p5jax.serving.recommender import Recommender
from p5jax.training.checkpoints import Checkpoints

SCHEMES = ("sequential", "token", "collaborative", "semantic")
LATER = 4_000_000_000  # after all that the world has


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Run]:
    """A run of the same world for each scheme, with random parameters and a checkpoint."""
    folder, made = tmp_path_factory.mktemp("runs"), dict[str, Run]()
    raw, pieces = synthetic_raw(users=60, items=40, seed=0), ""
    for scheme in SCHEMES:
        build_dataset(raw, folder / f"data-{scheme}", scheme=scheme, seed=0)
        config = RunConfig(
            str(folder / f"data-{scheme}"),
            str(folder / scheme),
            prompts=("2-1", "2-3", "3-1"),
            vocabulary=pieces,
            vocabulary_size=600,
        )
        run = Run.create(config, FamilyConfig(max_source=128, num_candidates=4), RUN_MODEL)
        run.write()
        shapes = jax.eval_shape(partial(init_params, run.model), jax.random.key(0))
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda leaf, rng=rng: jnp.asarray(rng.normal(0, 0.4, leaf.shape), jnp.float32), shapes
        )
        with Checkpoints(run.path / "checkpoints") as checkpoints:
            checkpoints.save(5, {"target": params, "state": {"step": np.int32(5)}}, {"step": 5})
        made[scheme] = run
        pieces = str(run.path / "vocabulary" / "sentencepiece.model")
    return made


def rows(*triples: tuple[str, str, int]) -> pa.Table:
    users, items, times = zip(*triples, strict=True)
    return pa.table({"user_id": users, "item_id": items, "timestamp": times})


def about(**titles: str) -> pa.Table:
    return pa.table({"item_id": [*titles], "title": [*titles.values()]})


@pytest.fixture(scope="module")
def extended(runs, tmp_path_factory) -> dict[str, Run]:
    """Two new items, one known by interactions and one by its text, and a new user of two."""
    folder, made = tmp_path_factory.mktemp("more"), {}
    for scheme, run in runs.items():
        known, dataset = run.dataset.item_keys, run.dataset
        new = rows(
            ("newcomer", known[3], LATER),
            ("newcomer", "fresh", LATER + 1),
            (dataset.user_keys[7], "fresh", LATER + 2),
        )
        items = about(told=dataset.titles[5] or "", fresh="something else")
        options = NewRowsOptions(interactions=new, items=items)
        made[scheme] = extend(run, folder / scheme, options)
    return made


def leaves(params) -> dict[str, np.ndarray]:
    found = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in found}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_known_keeps_its_number_its_id_and_every_bit(runs, extended, scheme):
    before, after = runs[scheme], extended[scheme]
    old, new = before.dataset, after.dataset
    assert new.user_keys == [*old.user_keys, "newcomer"]
    assert new.item_keys[: old.num_items] == old.item_keys
    assert set(new.item_keys[old.num_items :]) == {"fresh", "told"}
    assert new.item_ids[: old.num_items] == old.item_ids
    assert len(set(new.item_ids)) == new.num_items
    size, padded = before.vocabulary.size, before.vocabulary.padded_size
    assert after.vocabulary.id_tokens[: len(before.vocabulary.id_tokens)] == (
        before.vocabulary.id_tokens
    )
    tokens = set(id_tokens(new.item_ids)) - set(id_tokens(old.item_ids))
    assert len(tokens) == {"sequential": 0, "token": 2, "semantic": 0}.get(scheme, len(tokens))
    assert after.vocabulary.size == size + len(tokens)
    parts, others = leaves(before.params), leaves(after.params)
    assert parts.keys() == others.keys()
    for name, array in parts.items():
        if "token_embedder" in name:
            kept = np.r_[0:size, after.vocabulary.size : padded]
            assert np.array_equal(array[kept], others[name][kept]), name
        else:
            assert np.array_equal(array, others[name]), name


SEARCHED = ("token", *(pytest.param(each, marks=pytest.mark.check) for each in SCHEMES))


@pytest.mark.parametrize("scheme", SEARCHED)
def test_an_extended_item_has_the_probability_of_its_id(extended, scheme):
    run = extended[scheme]
    recommender, dataset = Recommender(run), run.dataset
    ids = [[*run.vocabulary.encode(id), 1] for id in dataset.item_ids]
    (asked,) = recommender.prompted([Case.of_user(dataset, 60)], ["2-3"])
    truth = log_probabilities(run.model, run.params, np.array([asked.prompts[0].tokens]), ids)[0]
    (found,) = recommender.recommend(["newcomer"], dataset.num_items - 2, exact=True)
    listed = [dataset.item_index(item.item) for item in found.items]
    left = set(range(dataset.num_items)) - {dataset.item_index("fresh"), 3}
    assert listed == sorted(left, key=lambda item: -truth[item])
    assert dataset.item_index("told") in listed
    scores = [item.log_probability for item in found.items]
    np.testing.assert_allclose(scores, truth[listed], atol=1e-4)


def test_other_users_change_no_answer(runs, tmp_path):
    run = runs["sequential"]
    keys, users = run.dataset.item_keys, run.dataset.user_keys[:2]
    new = rows(("a", keys[0], LATER), ("a", keys[1], LATER + 1), ("b", keys[2], LATER))
    more = extend(run, tmp_path / "more", NewRowsOptions(interactions=new))
    before, after = (Recommender(each).recommend(users, 5, exact=True) for each in (run, more))
    assert before == after
    assert more.vocabulary.fingerprint == run.vocabulary.fingerprint


def test_two_steps_are_one(runs, tmp_path):
    run = runs["sequential"]
    keys, user = run.dataset.item_keys, run.dataset.user_keys[4]
    first = rows(("a", "x", LATER), (user, "y", LATER + 5), ("a", keys[0], LATER + 2))
    second = rows(("b", "z", LATER + 9), ("a", "y", LATER + 1), ("a", "x", LATER + 3))
    step = extend(run, tmp_path / "step", NewRowsOptions(interactions=first))
    steps = extend(step, tmp_path / "steps", NewRowsOptions(interactions=second))
    both = pa.concat_tables([first, second])
    once = extend(run, tmp_path / "once", NewRowsOptions(interactions=both))
    for name in ("users", "items", "interactions", "reviews"):
        assert getattr(steps.dataset, name).equals(getattr(once.dataset, name)), name
    assert [once.dataset.item_keys[item] for item in once.dataset.sequence(60)] == [
        *("x", "y", keys[0]),
    ]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_held_out_rows_decide_nothing(runs, scheme):
    run = runs[scheme]
    keys, users = run.dataset.item_keys, run.dataset.user_keys
    new = rows((users[1], "fresh", LATER), ("n", "fresh", LATER), ("n", keys[1], LATER + 1))
    raw = read_new(NewRowsOptions(interactions=new, items=about(told=run.dataset.titles[9])))
    found = []
    for dataset in (run.dataset, with_other_held_out(run.dataset)):
        items = Extension.of(dataset, raw).new_items
        ids = new_ids(items)
        found.append((ids, leaves(grown(run, items, ids)[1])))
    assert found[0][0] == found[1][0]
    for name, array in found[0][1].items():
        assert np.array_equal(array, found[1][1][name]), name


def test_the_memory_knows_every_interaction_of_an_extended_run(runs, tmp_path):
    run = runs["sequential"]
    chosen = {"prompt": "2-3", "users": 1, "model": 0.1, "mixed": 0.2}
    store_memory(run, MemorySettings(text=0.5), chosen)
    new = rows(("a", "x", LATER), ("a", run.dataset.item_keys[0], LATER + 1))
    more = extend(run, tmp_path / "more", NewRowsOptions(interactions=new))
    (run.path / "memory.json").unlink()
    memory = stored_memory(more)
    assert memory is not None
    items = more.dataset.interactions["item"].to_pylist()
    assert memory.counts.tolist() == [items.count(item) for item in range(more.dataset.num_items)]
    assert memory.sums[more.dataset.item_index("x"), 0] == 1.0


def test_nothing_is_measured_on_an_extended_run(extended):
    run = extended["sequential"]
    assert not pc.any(pc.not_equal(run.dataset.interactions["split"], 0)).as_py()
    for job in (evaluate, fit_memory, lambda run: audit(run.dataset)):
        with pytest.raises(UserError, match="of which no interaction is held out"):
            job(run)


def test_an_extended_run_may_move(extended, runs, tmp_path):
    run = runs["token"]
    new = NewRowsOptions(interactions=rows(("a", run.dataset.item_keys[0], LATER)))
    path = extend(run, tmp_path / "here", new).path.rename(tmp_path / "there")
    assert Run.load(path).dataset.path.resolve() == path / "dataset"


def refused(runs, capsys, *words: object, scheme: str = "sequential") -> str:
    """The line by which the command refuses; it leaves nothing behind."""
    assert main(["extend", str(runs[scheme].path), *map(str, words)]) == 2
    _, error = capsys.readouterr()
    assert error.startswith("p5jax: error: ")
    assert error.count("\n") == 1
    return error


def test_what_cannot_be_read_is_refused_in_one_line(runs, capsys, tmp_path):
    run, out = runs["sequential"], tmp_path / "out"
    known, user = run.dataset.item_keys[0], run.dataset.user_keys[0]
    own = run.dataset.item_keys[run.dataset.sequence(0)[0]]
    files = {
        "empty": "",
        "header": "user_id,item_id\n",
        "columns": "user_id,thing\na,b\n",
        "known": f"user_id,item_id\n{user},{own}\n",
        "far": f"user_id,item_id,rating\na,{known},11\n",
        "days": f"user_id,item_id,timestamp\na,{known},12\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.csv").write_text(text)
    words = {
        "empty": "empty.csv",
        "header": "header.csv: found no row",
        "columns": "columns.csv: found no column of items among user_id, thing",
        "known": "found nothing that is new",
        "far": "far.csv:2: found a rating of 11, expected 1 to 5",
        "days": "days.csv: found times in an unknown unit, expected seconds",
    }
    for name, said in words.items():
        file = tmp_path / f"{name}.csv"
        assert said in refused(runs, capsys, "--interactions", file, "--out", out)
        assert not out.exists(), name
    assert "--interactions, --items or both" in refused(runs, capsys, "--out", out)
    (out / "sub").mkdir(parents=True)
    good = tmp_path / "good.csv"
    good.write_text(f"user_id,item_id\na,{known}\na,{known}\na,unknown\n")
    assert "exists, expected a new folder" in refused(
        runs, capsys, "--interactions", good, "--out", out
    )
    (out / "sub").rmdir()
    assert main(["extend", str(run.path), "--interactions", str(good), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "new_interactions                    2" in printed
    assert "new_repeated_pairs                  1" in printed
    assert main(["recommend", str(out), "--user", "a", "-k", "3"]) == 0
