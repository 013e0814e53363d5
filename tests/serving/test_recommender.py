"""A recommender's prompts, lists, scores and answers against the evaluation's and others' code."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from small_model import RUN_MODEL, log_probabilities

from p5jax.core.errors import UserError
from p5jax.data.dataset import TABLES, TEST, Dataset
from p5jax.data.splits import leave_one_out
from p5jax.data.writing import write_dataset
from p5jax.evaluation.compare import compare_runs
from p5jax.evaluation.evaluators import evaluate_run
from p5jax.evaluation.settings import EvaluationConfig
from p5jax.models.t5 import init_params
from p5jax.pipeline.samples import encoded_source
from p5jax.prompts.families import FamilyConfig
from p5jax.runs.run import Run, RunConfig
from p5jax.serving.question import Case
from p5jax.serving.recommender import Recommender
from p5jax.triggers.layout import PROMPT_ID, Layout
from p5jax.triggers.prompt import TriggeredRun, TriggerPrompt

# Everything fits; histories are cut by items; they are cut by tokens.
LIMITS = {
    "roomy": FamilyConfig(max_source=256, num_candidates=10),
    "short histories": FamilyConfig(max_source=256, num_candidates=10, max_history=2),
    "short sources": FamilyConfig(max_source=40, num_candidates=2),
}
NEXT_ITEM = ("2-1", "2-3", "2-5", "2-13")


@pytest.fixture(scope="module")
def earlier(world, tmp_path_factory) -> Dataset:
    """The world before each user's last interaction: what an evaluation's test examples show."""
    tables = {name: getattr(world, name) for name in TABLES}
    for name in ("interactions", "reviews"):
        tables[name] = tables[name].filter(pc.not_equal(tables[name]["split"], TEST))
    interactions = tables["interactions"]
    splits = leave_one_out(interactions["user"].to_numpy())
    pairs = zip(interactions["user"].to_pylist(), interactions["item"].to_pylist(), strict=True)
    of_pair = dict(zip(pairs, splits.tolist(), strict=True))
    for name in ("interactions", "reviews"):
        rows = tables[name]
        pairs = zip(rows["user"].to_pylist(), rows["item"].to_pylist(), strict=True)
        column = pa.array([of_pair[pair] for pair in pairs], pa.int8())
        tables[name] = rows.set_column(rows.column_names.index("split"), "split", column)
    told = ("name", "format", "sources", "protocol", "counts", "item_ids")
    out = tmp_path_factory.mktemp("earlier") / "dataset"
    write_dataset(out, **{key: world.manifest[key] for key in told}, **tables)
    return Dataset.load(out)


class Both:
    """A run, and the same model's run of the world before each user's last interaction."""

    def __init__(self, folder: Path, world: Dataset, earlier: Dataset, limits: FamilyConfig):
        prompts = (*NEXT_ITEM, "2-11", "3-1", "3-8", "3-12", "1-6")
        config = RunConfig(str(world.path), str(folder / "now"), prompts=prompts)
        now = Run.create(config, limits, RUN_MODEL)
        config = RunConfig(
            str(earlier.path),
            str(folder / "before"),
            prompts=prompts,
            vocabulary=str(now.path / "vocabulary" / "sentencepiece.model"),
        )
        before = Run.create(config, limits, RUN_MODEL)
        assert before.vocabulary.fingerprint == now.vocabulary.fingerprint
        params = init_params(now.model, jax.random.key(0))
        params["token_embedder"]["embedding"] *= 20  # answers that differ between prompts
        self.now, self.before = now.with_params(params), before.with_params(params)


@pytest.fixture(scope="module")
def both(world, earlier, tmp_path_factory) -> Both:
    return Both(tmp_path_factory.mktemp("runs"), world, earlier, LIMITS["roomy"])


@pytest.fixture(scope="module", params=LIMITS)
def limited(request, world, earlier, tmp_path_factory) -> Both:
    return Both(tmp_path_factory.mktemp("runs"), world, earlier, LIMITS[request.param])


def trigger_prompt(run: Run, family: str) -> TriggerPrompt:
    """Three task tokens and two of each user's own, all at random."""
    rng = np.random.default_rng(0)
    words = np.flatnonzero(run.vocabulary.trigger_tokens).astype(np.int32)
    layout = Layout(task_tokens=3, user_tokens=2, position="both")
    users = rng.choice(words, (run.dataset.num_users, 2))
    return TriggerPrompt(family, layout, rng.choice(words, 3), rng.choice(words, 2), users, {})


def evaluated(run, family: str, prompt: str, split: str = "test") -> Iterator[tuple]:
    """An evaluation's examples of a prompt and their tokens."""
    examples, longest = run.families[family], LIMITS["roomy"].max_source
    for index in range(examples.size(split, prompt)):
        example = examples.example(split, index, prompt_id=prompt)
        yield example, encoded_source(example, run.vocabulary, longest).tolist()


@pytest.mark.parametrize("prompt", [*NEXT_ITEM, PROMPT_ID])
def test_the_prompt_of_a_user_is_the_evaluations(limited, prompt):
    now, triggers = limited.now, None
    if prompt == PROMPT_ID:
        triggers = trigger_prompt(now, "sequential")
        now = TriggeredRun(now, triggers, now.path)
    recommender = Recommender(limited.before, triggers)
    expected = list(evaluated(now, "sequential", prompt))
    users = [example.user for example, _ in expected]
    assert len(users) == limited.now.dataset.num_users
    cases = [Case.of_user(limited.before.dataset, user) for user in users]
    asked = [each.prompts[0] for each in recommender.prompted(cases, [prompt])]
    assert [tokens for tokens, _ in asked] == [tokens for _, tokens in expected]
    assert [given for _, given in asked] == [example.given for example, _ in expected]


def test_limits_do_cut_histories(world, limited):
    config = limited.now.family_config
    longest = max(len(world.history(user, "test")) for user in range(world.num_users))
    prompts = [tokens for _, tokens in evaluated(limited.now, "sequential", "2-3")]
    if config.max_history:
        assert longest > config.max_history
    if config.max_source == 40:
        assert sum(len(tokens) > 36 for tokens in prompts) > world.num_users / 4
    else:
        assert max(map(len, prompts)) < config.max_source


@pytest.mark.parametrize("prompt", ["3-1", "3-8", PROMPT_ID])
def test_an_explanation_is_asked_for_as_in_an_evaluation(both, prompt):
    now, triggers = both.now, None
    if prompt == PROMPT_ID:
        triggers = trigger_prompt(now, "explanation")
        now = TriggeredRun(now, triggers, now.path)
    recommender = Recommender(both.now, triggers)
    for example, tokens in evaluated(now, "explanation", prompt):
        inputs = recommender.family("explanation").inputs_for(
            prompt, "explanation", example.user, item=example.item
        )
        assert recommender.tokens(inputs) == tokens


def test_prompts_that_cannot_be_filled_are_refused_with_those_that_can(both, world):
    recommender, user = Recommender(both.now), world.user_keys[0]
    usable = "usable here: 2-1, 2-13, 2-3, 2-5"
    for prompt, words in (("2-99", "not a sequential prompt"), ("2-11", "needs item")):
        with pytest.raises(UserError, match=f"prompt '{prompt}'.*{words}.*{usable}"):
            recommender.recommend([user], 3, prompts=[prompt])
    with pytest.raises(UserError, match="prompt '3-12' needs .*; usable here: 3-1, 3-8"):
        recommender.explain(user, world.item_keys[0], prompt="3-12")


@pytest.fixture(scope="module")
def truth(both, world) -> np.ndarray:
    """The log-probability of every item for every fifth user [U, I], one by one."""
    ids = [[*both.now.vocabulary.encode(id), 1] for id in world.item_ids]
    rows = []
    for user in range(0, world.num_users, 5):
        case = Case.of_user(world, user)
        (asked,) = Recommender(both.now).prompted([case], ["2-3"])
        tokens = np.array([asked.prompts[0].tokens])
        rows.append(log_probabilities(both.now.model, both.now.params, tokens, ids)[0])
    return np.array(rows)


def test_scores_are_those_of_each_item_alone(both, world, truth):
    users = world.user_keys[::5]
    items = np.random.default_rng(0).permutation(world.num_items)[:21]
    keys = [world.item_keys[item] for item in items]
    scores = Recommender(both.now).score(users, keys)
    assert scores.dtype == np.float32
    assert scores.shape == (24, 21)  # two batches
    np.testing.assert_allclose(scores, truth[:, items], atol=1e-4)
    assert Recommender(both.now).score([], keys).shape == (0, 21)
    assert Recommender(both.now).score(users[:2], []).shape == (2, 0)


def test_lists_are_the_best_of_the_scores(both, world, truth):
    users = world.user_keys[::5]
    lists = Recommender(both.now).recommend(users, 7, exact=True)
    for user, found, row in zip(users, lists, truth, strict=True):
        left = row.copy()
        left[world.sequence(world.user_index(user))] = -np.inf
        best = np.argsort(-left)[:7]
        assert found.exact
        scores = [item.log_probability for item in found.items]
        np.testing.assert_allclose(scores, left[best], atol=1e-4)
        items = [world.item_index(item.item) for item in found.items]
        np.testing.assert_allclose(row[items], left[best], atol=1e-4)
        assert len(set(items)) == 7


@pytest.fixture(scope="module")
def results(both) -> dict:
    config = EvaluationConfig(batch_size=16, exact=True, max_length=64)
    found = evaluate_run(both.now, ["sequential"], ["2-3"], config=config, report=len)
    return {result.prompt_id: result for result in found}


def test_the_evaluations_hit_rate_is_that_of_the_recommended_lists(both, world, results):
    """At the time before the last interaction, which is then the next item."""
    recommender = Recommender(both.before)
    lists = recommender.recommend(world.user_keys, 10, prompts=["2-3"], method="exact")
    rows = {row["user"]: row for row in results["2-3"].per_user.to_pylist()}
    hits = []
    for user, found in enumerate(lists):
        items = [world.item_index(item.item) for item in found.items]
        assert items == rows[user]["top"]
        hits.append(world.target(user, "test") in items)
    assert results["2-3"].metrics["HR@10"][0] == pytest.approx(np.mean(hits))
    assert 0 < np.mean(hits) < 1


def test_a_run_does_not_differ_from_itself(both):
    evaluate_run(both.now, prompts=["2-3", "3-1", "1-6"], report=len)
    found = compare_runs(both.now.path, both.now.path)
    assert {d.prompt_id for d in found} == {"2-3", "3-1", "1-6"}
    for d in found:
        assert d.a == d.b
        assert (d.difference, d.low, d.high, d.p_value) == (0, 0, 0, 1)


def talkative(params):
    """Random parameters of a model that says something, and not the same to every prompt."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), params)


@pytest.mark.extras
def test_answers_are_those_of_transformers_on_the_evaluations_prompts(both, world, tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch (make test-extras)")
    transformers = pytest.importorskip(
        "transformers", reason="needs transformers (make test-extras)"
    )
    from p5jax.models.checkpoints.hugging_face import export_hugging_face

    now = both.now.with_params(talkative(both.now.params))
    recommender = Recommender(now)
    folder = tmp_path / "hf"
    export_hugging_face(now.params, now.model.config, folder, vocabulary=now.vocabulary)
    reference = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()

    def answer(tokens: list[int], **options: int) -> str:
        output = reference.generate(
            torch.tensor([tokens]),
            max_new_tokens=64,
            num_beams=4,
            length_penalty=1.0,
            early_stopping="never",
            do_sample=False,
            **options,
        )
        found = output[0, 1:].tolist()
        return now.vocabulary.decode(found[: found.index(1)] if 1 in found else found)

    said = set()
    pairs = chain(*(list(evaluated(now, "explanation", prompt))[:4] for prompt in ("3-1", "3-8")))
    for example, tokens in pairs:
        user, item = world.user_keys[example.user], world.item_keys[example.item]
        said.add(recommender.explain(user, item, prompt=example.prompt_id))
        expected = answer(tokens, no_repeat_ngram_size=2)
        assert recommender.explain(user, item, prompt=example.prompt_id) == expected
    for text in ("Which star rating ?", world.titles[0]):
        said.add(recommender.generate(text))
        assert recommender.generate(text) == answer([*now.vocabulary.encode(text), 1])
    assert len(said) > 2  # otherwise this test shows nothing
