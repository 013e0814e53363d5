"""Questions: a history is answered as the user who has it, and candidates alone are ranked."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from served import served_run
from small_model import log_probabilities

from p5jax.core.errors import UserError
from p5jax.evaluation.evaluators import evaluate_run
from p5jax.memory.settings import MemorySettings
from p5jax.pipeline.samples import encoded_source
from p5jax.runs.stored_memory import store_memory
from p5jax.serving.lines import ANSWERS_FOLDER, answer_lines
from p5jax.serving.question import Case, Question
from p5jax.serving.recommender import Recommender
from p5jax.serving.settings import BulkConfig

CHOSEN = {"prompt": "2-3", "users": 3, "model": 0.1, "mixed": 0.2}
FEW = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions") / "run"
    run = served_run(world, folder, "2-1", "2-3", "2-5", "3-1", "3-8")
    store_memory(run, MemorySettings(0.25), CHOSEN)
    return run


@pytest.fixture(scope="module")
def recommender(run):
    return Recommender(run)


@pytest.fixture(scope="module")
def listing(world, tmp_path_factory):
    """Answers with a prompt that names nobody."""
    folder = tmp_path_factory.mktemp("questions") / "listing"
    return Recommender(served_run(world, folder, "L-1", "H-1"))


def keys(world, items) -> list[str]:
    return [world.item_keys[item] for item in items]


@FEW
@given(user=st.integers(0, 119), memory=st.booleans())
def test_a_users_history_gives_that_users_answer(world, recommender, user, memory):
    key, history = world.user_keys[user], keys(world, world.sequence(user))
    one, other = (
        recommender.recommend([asked], 5, memory=memory)[0]
        for asked in (key, Question(key, history))
    )
    assert one == other


@settings(FEW, max_examples=4)
@given(user=st.integers(0, 119), prompt=st.sampled_from(["L-1", "H-1"]))
def test_nobody_has_to_be_named_where_the_prompt_names_nobody(world, listing, user, prompt):
    history = keys(world, world.sequence(user))
    one, other = (
        listing.recommend([asked], 5, prompts=[prompt])[0]
        for asked in (world.user_keys[user], Question(history=history))
    )
    assert one == other


def test_a_newcomer_is_called_as_the_next_user(world, recommender):
    case = Case.of(world, Question(history=[world.item_keys[3], world.titles[4]]))
    assert case.history.tolist() == [3, 4]
    asked = recommender.prompted([case], ["2-3", "2-5"])[0].prompts
    said = [recommender.run.vocabulary.decode(prompt.tokens) for prompt in asked]
    assert all(f"user_{world.num_users + 1} " in text for text in said)
    explained = recommender.explain(Question(history=[world.item_keys[3]]), world.item_keys[4])
    assert isinstance(explained, str)


@FEW
@given(
    user=st.integers(0, 119),
    candidates=st.lists(st.integers(0, 59), min_size=1, max_size=20, unique=True),
    excluded=st.lists(st.integers(0, 59), max_size=5, unique=True),
)
def test_candidates_alone_are_ranked_by_their_scores(
    world, recommender, user, candidates, excluded
):
    question = Question(
        world.user_keys[user],
        candidates=keys(world, candidates),
        exclude=keys(world, excluded),
    )
    found = recommender.recommend([question], 10)[0]
    scores = recommender.score([question], world.item_keys)[0][candidates]
    out = {*excluded, *world.sequence(user).tolist()}
    best = sorted(
        (-float(score), item)
        for item, score in zip(candidates, scores, strict=True)
        if item not in out
    )
    assert found.exact
    expected = [-score for score, _ in best[:10]]
    np.testing.assert_allclose([i.log_probability for i in found.items], expected, atol=1e-4)
    if len(best) < 10:
        assert {i.item for i in found.items} == set(keys(world, [item for _, item in best]))


def test_questions_with_and_without_candidates_keep_their_order(world, recommender):
    asked = [
        Question(world.user_keys[0], candidates=keys(world, range(9))),
        world.user_keys[1],
        Question(world.user_keys[2], candidates=keys(world, range(5, 30))),
    ]
    together = recommender.recommend(asked, 3)
    for question, answer in zip(asked, together, strict=True):
        (alone,) = recommender.recommend([question], 3)
        assert [item.item for item in alone.items] == [item.item for item in answer.items]


def test_places_are_those_of_the_list_of_all(world, recommender):
    user, listed = world.user_keys[7], world.num_items - len(world.sequence(7))
    whole = recommender.recommend([user], world.num_items, method="exact")[0].items
    found = recommender.placed(user, world.item_keys)
    place = {each.item: number for number, each in enumerate(whole, 1)}
    assert len(place) == listed
    assert {each.item: each.rank for each in found if each.rank} == place
    known = {each.item for each in found if each.rank is None}
    assert known == set(keys(world, world.sequence(7)))
    scores = recommender.score([user], world.item_keys)[0]
    np.testing.assert_allclose([each.log_probability for each in found], scores, atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "found neither a user nor a history"),
        ({"history": []}, "history: found no item"),
        ({"user": "u", "candidates": []}, "candidates: found no item"),
        ({"history": "B01"}, "history: found 'B01', expected a list of keys"),
    ],
)
def test_a_question_that_asks_nothing_is_refused(asked, words):
    with pytest.raises(UserError, match=words):
        Question(**asked)


def test_unknown_and_doubtful_names_are_named(world):
    def refused(**asked) -> str:
        with pytest.raises(UserError) as caught:
            Case.of(world, Question(**asked))
        return str(caught.value)

    one = world.item_keys[0]
    assert "history: items 'x1', 'x2' are not in the dataset" in refused(
        history=[one, "x1", one, "x2"]
    )
    assert "candidates: item 'x1' is not in the dataset" in refused(
        user=world.user_keys[0], candidates=["x1"]
    )
    assert "user 'nobody' is not in the dataset" in refused(user="nobody")
    items = world.items.set_column(
        world.items.column_names.index("title"), "title", [["Same"] * world.num_items]
    )
    same = type(world)(
        world.path,
        world.manifest,
        {name: getattr(world, name) for name in ("users", "interactions", "reviews")}
        | {"items": items},
    )
    with pytest.raises(UserError, match="history: 'Same' is the title of 60 items, expected a key"):
        Case.of(same, Question(history=["Same"]))


def test_a_mean_of_prompts_is_the_mean_of_their_probabilities(world, recommender):
    users, names = world.user_keys[:3], ["2-1", "2-3", "2-5"]
    single = [
        recommender.score(users, world.item_keys, prompts=[name], memory=False) for name in names
    ]
    scores = recommender.score(users, world.item_keys, prompts=names, memory=False)
    mean = logsumexp(np.array(single, np.float64), axis=0) - np.log(3)
    np.testing.assert_allclose(scores, mean, atol=1e-3, rtol=1e-5)
    assert abs(single[0] - single[1]).max() > 0.1  # otherwise this shows nothing
    for exact, beam in ((True, 4), (False, 4)):
        lists = recommender.recommend(users, 5, prompts=names, memory=False, beam=beam, exact=exact)
        for user, (found, row) in enumerate(zip(lists, scores, strict=True)):
            left = row.copy()
            left[world.sequence(user)] = -np.inf
            best = -np.sort(-left)[:5]
            assert found.exact or not exact
            if found.exact:  # never without being right
                given = [item.log_probability for item in found.items]
                np.testing.assert_allclose(given, best, rtol=1e-5)
    with pytest.raises(UserError, match="prompts: found 2-1, 2-1, expected each once"):
        recommender.recommend(users, 5, prompts=["2-1", "2-1"])


def test_an_evaluation_measures_the_same_mean(world, run):
    found = evaluate_run(run, None, ["2-1", "2-3"], limit=4, average=True, report=len)
    (result,) = (each for each in found if each.prompt_id == "2-1+2-3")
    ids = [[*run.vocabulary.encode(id), 1] for id in world.item_ids]
    family = run.families["sequential"]
    indices = family.users("test").tolist()
    for row in result.per_user.to_pylist():
        logp = []
        for prompt in ("2-1", "2-3"):
            example = family.example("test", indices.index(row["user"]), prompt_id=prompt)
            tokens = encoded_source(example, run.vocabulary, 256)[None]
            logp.append(log_probabilities(run.model, run.params, tokens, ids)[0])
        mean = logsumexp(np.array(logp, np.float64), axis=0)
        mean[world.history(row["user"], "test")] = -np.inf
        np.testing.assert_allclose(mean[row["top"]], -np.sort(-mean)[:10], rtol=1e-5)
    with pytest.raises(UserError, match="average: found 2-1, expected several prompts"):
        evaluate_run(run, None, ["2-1"], limit=4, average=True, report=len)


@pytest.fixture
def asked(world, tmp_path):
    file = tmp_path / "questions.jsonl"
    lines = [{"user": key} for key in world.user_keys[:5]]
    lines.append({"history": keys(world, [1, 2]), "candidates": keys(world, [3, 4])})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


CONFIG = BulkConfig(k=3, batch_size=2)


def test_many_questions_are_answered_in_order(world, recommender, asked, tmp_path):
    out = tmp_path / "answers.jsonl"
    answer_lines(recommender, asked, out, CONFIG, len)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row.get("user") for row in rows] == [*world.user_keys[:5], None]
    assert [len(row["items"]) for row in rows] == [3] * 5 + [2]
    alone = recommender.recommend([world.user_keys[4]], 3)[0]
    assert [item["item"] for item in rows[4]["items"]] == [item.item for item in alone.items]
    assert not (tmp_path / "answers.jsonl.parts").exists()
    with pytest.raises(UserError, match="exists; choose another file"):
        answer_lines(recommender, asked, out, CONFIG, len)


def test_a_line_that_is_no_question_is_refused_before_anything_is_made(
    recommender, asked, tmp_path
):
    good = asked.read_text()
    for line, words in (
        ('{"user": "nobody"}', "questions.jsonl:7: .*user 'nobody' is not in the dataset"),
        ('{"usr": "a"}', "questions.jsonl:7: found key 'usr'; did you mean user"),
        ('{"history": []}', "questions.jsonl:7: history: found no item"),
        ('{"user": ', "questions.jsonl:7: found .*expected a question"),
        ("[]", r"questions.jsonl:7: found \[\], expected a question"),
    ):
        asked.write_text(good + line)
        with pytest.raises(UserError, match=words):
            answer_lines(recommender, asked, tmp_path / "out", CONFIG, len)
        assert [path.name for path in tmp_path.iterdir()] == ["questions.jsonl"]


def test_parts_that_are_there_are_not_computed_again(recommender, asked, tmp_path, monkeypatch):
    """And what the folder was made from is compared."""
    out = tmp_path / "answers.jsonl"
    folder = tmp_path / "answers.jsonl.parts"
    answer_lines(recommender, asked, tmp_path / "first", CONFIG, len)
    folder.mkdir()
    (folder / "answers.json.partial").write_text("{")  # a start that was cut short
    monkeypatch.setattr(
        Recommender, "answers", lambda *given: pytest.fail("computed what is there")
    )
    with pytest.raises(pytest.fail.Exception):
        answer_lines(recommender, asked, out, CONFIG, len)
    (folder / "part-000000000.jsonl").write_text((tmp_path / "first").read_text())
    with pytest.raises(UserError, match="found k = 3, expected 4"):
        answer_lines(recommender, asked, out, BulkConfig(k=4, batch_size=2), len)
    assert ANSWERS_FOLDER.is_at(folder)
    answer_lines(recommender, asked, out, CONFIG, len)
    assert out.read_text() == (tmp_path / "first").read_text()
