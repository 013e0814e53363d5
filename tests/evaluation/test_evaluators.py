"""Evaluators of an untrained model against scoring every item and answer by itself."""

from __future__ import annotations

import json
from collections import Counter
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p5jax.cli.main import main
from p5jax.core.errors import UserError
from p5jax.evaluation.baselines.texts import most_frequent
from p5jax.evaluation.evaluators import evaluate_family, evaluate_run
from p5jax.evaluation.prompts import default_prompts
from p5jax.evaluation.ranking_evaluators import place_of
from p5jax.evaluation.results import format_results, load_results
from p5jax.evaluation.settings import EvaluationConfig
from p5jax.evaluation.task import chosen_indices, kind_of
from p5jax.inference.ranking import id_trie
from p5jax.inference.trie import Trie
from p5jax.models.t5 import Transformer, init_params
from p5jax.models.t5_config import T5Config
from p5jax.prompts.families import FamilyConfig, make_families
from p5jax.prompts.template_files import load_templates, own_templates
from p5jax.serving.recommender import Recommended, Recommender

LIMIT = 12
CONFIG = EvaluationConfig(batch_size=8, beam=64, yes_no_users=2, max_length=16)


@dataclass
class TinyRun:
    path: Path
    dataset: Any
    vocabulary: Any
    model: Any
    params: Any
    families: Any
    lines: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def run(world, world_vocabulary, tmp_path_factory):
    model = Transformer(
        T5Config(
            vocab_size=world_vocabulary.padded_size,
            emb_dim=16,
            num_heads=2,
            num_encoder_layers=1,
            num_decoder_layers=1,
            head_dim=8,
            mlp_dim=32,
            word_starts=np.packbits(world_vocabulary.word_starts).tobytes(),
        )
    )
    templates = load_templates("amazon")
    config = FamilyConfig(num_candidates=10, max_source=128)
    families = make_families(world, templates, world_vocabulary, config)
    params = init_params(model, jax.random.key(0))
    path = tmp_path_factory.mktemp("run")
    return TinyRun(path, world, world_vocabulary, model, params, families)


@pytest.fixture(scope="module")
def results(run):
    found = evaluate_run(run, split="test", limit=LIMIT, config=CONFIG, report=run.lines.append)
    return {(r.family, r.kind, r.prompt_id): r for r in found}


@pytest.fixture(scope="module")
def logp_of(run):
    """log P(target | inputs) of many targets for one prompt: uncached, unpadded source."""

    @jax.jit
    def logits(source, shifted):
        tiled = jnp.broadcast_to(source, (len(shifted), source.shape[0]))
        return run.model.apply(
            {"params": run.params}, tiled, shifted, shifted, enable_dropout=False
        )

    def score(inputs: str, targets: list[str]) -> np.ndarray:
        encode, eos = run.vocabulary.encode, run.vocabulary.eos_id
        rows = [[*encode(target), eos] for target in targets]
        width = 9 if max(map(len, rows)) <= 9 else 64
        shifted = np.zeros((len(rows), width), np.int32)
        for row, tokens in zip(shifted, rows, strict=True):
            row[1 : len(tokens)] = tokens[:-1]
        logp = np.asarray(jax.nn.log_softmax(logits(np.array([*encode(inputs), eos]), shifted)))
        return np.array(
            [
                sum(logp[i, place, token] for place, token in enumerate(tokens))
                for i, tokens in enumerate(rows)
            ]
        )

    return score


def example_of(run, family: str, prompt: str, user: int):
    examples = run.families[family]
    for index in range(examples.size("test", prompt)):
        example = examples.example("test", index, prompt_id=prompt)
        if example.user == user:
            return example
    raise AssertionError(f"user {user} has no {family} example")


def test_every_family_is_judged_on_seen_and_unseen_prompts(run, results):
    prompts = [r for r in results.values() if not r.baseline]
    assert {r.family for r in prompts} == set(run.families)
    for family in run.families:
        assert {r.seen for r in prompts if r.family == family} == {True, False}
    kinds = {r.prompt_id: r.kind for r in prompts}
    expected = {"1-6": "rating", "2-3": "catalogue", "3-12": "text", "4-1": "text"}
    expected |= {"4-4": "rating", "5-1": "yes_no", "5-8": "candidates"}
    assert expected.items() <= kinds.items()
    assert any("12/12 examples" in line for line in run.lines)


def test_metrics_are_the_means_of_the_per_user_values(results):
    for result in results.values():
        assert result.n == result.per_user.num_rows
        for name, (value, low, high) in result.metrics.items():
            if not np.isnan(low):
                assert low <= value <= high, (result.label, name)
            if name in result.per_user.column_names:
                assert value == pytest.approx(np.mean(result.per_user[name].to_numpy()))


def test_catalogue_ranks_are_exact_and_skip_the_history(run, results, logp_of):
    result = results["sequential", "catalogue", "2-3"]
    assert result.n == LIMIT
    for row in result.per_user.to_pylist()[:4]:
        example = example_of(run, "sequential", "2-3", row["user"])
        logp = logp_of(example.inputs, run.dataset.item_ids)
        history = run.dataset.history(row["user"], "test")
        logp[history] = -np.inf
        assert row["item"] == run.dataset.target(row["user"], "test")
        rank = (logp > logp[row["item"]]).sum()
        assert row["rank"] == (rank if rank < 10 else -1)
        np.testing.assert_array_equal(row["top"], np.argsort(-logp)[:10])
        assert row["HR@10"] == (rank < 10)
        assert row["certified"] == 1
    lists = result.per_user["top"].to_pylist()
    expected = len({item for row in lists for item in row}) / run.dataset.num_items
    assert result.metrics["coverage"][0] == pytest.approx(expected)


def test_candidate_ranks_are_exact(run, results, logp_of):
    result = results["direct", "candidates", "5-8"]
    for row in result.per_user.to_pylist()[:4]:
        example = example_of(run, "direct", "5-8", row["user"])
        candidates = example.candidates.tolist()
        logp = logp_of(example.inputs, [run.dataset.item_ids[item] for item in candidates])
        own = logp[candidates.index(row["item"])]
        assert row["rank"] == (logp > own).sum()
        order = np.argsort(-logp)
        assert row["top"] == [candidates[place] for place in order][:10]


def test_yes_no_asks_about_each_candidate(run, results, logp_of):
    result = results["direct", "yes_no", "5-1"]
    assert result.n == CONFIG.yes_no_users
    chosen = results["direct", "candidates", "5-8"].per_user["user"].to_pylist()
    assert set(result.per_user["user"].to_pylist()) <= set(chosen)
    family = run.families["direct"]
    row = result.per_user.to_pylist()[0]
    margins = {}
    for item in example_of(run, "direct", "5-1", row["user"]).candidates.tolist():
        inputs = family.candidate_example("test", row["user"], "5-1", item).inputs
        yes, no = logp_of(inputs, ["yes", "no"])
        margins[item] = yes - no
    own = margins[run.dataset.target(row["user"], "test")]
    assert row["rank"] == sum(margin > own for margin in margins.values())


def test_yes_no_behind_a_list_that_the_decoder_is_told(run, logp_of):
    templates = {"D-2": own_templates()["D-2"]}
    config = run.families["direct"].source.config
    families = make_families(run.dataset, templates, run.vocabulary, config)
    told = replace(run, families=families)
    found = evaluate_family(told, "direct", "D-2", "test", config=CONFIG, report=run.lines.append)
    row = found.per_user.to_pylist()[0]
    user, margins = row["user"], {}
    known = run.dataset.history(user, "test").tolist()
    for item in example_of(told, "direct", "D-2", user).candidates.tolist():
        example = families["direct"].candidate_example("test", user, "D-2", item)
        begun = families["direct"].source.listed(np.array([*known, item]))
        yes, no = logp_of(example.inputs, [f"{begun} yes", f"{begun} no"])
        margins[item] = yes - no
    own = margins[run.dataset.target(user, "test")]
    assert row["rank"] == sum(margin > own for margin in margins.values())


def test_rating_is_the_expected_number_of_stars(run, results, logp_of):
    row = results["rating", "rating", "1-10"].per_user.to_pylist()[0]
    example = example_of(run, "rating", "1-10", row["user"])
    texts = [str(n) for n in range(1, 6)] + [f"{n / 10:.1f}" for n in range(10, 51)]
    weight = np.exp(logp_of(example.inputs, texts))
    stars = [int(float(text) + 0.5) for text in texts]
    assert row["prediction"] == pytest.approx(weight @ stars / weight.sum(), abs=1e-3)
    assert row["reference"] == example.answer


def test_baselines_stand_on_the_same_examples(run, results):
    dataset = run.dataset
    for name in ("popularity", "markov", "co_occurrence", "co_occurrence_and_text", "ease"):
        for family, kind, prompt in (
            ("sequential", "catalogue", "2-3"),
            ("direct", "candidates", "5-8"),
            ("direct", "yes_no", "5-1"),
        ):
            baseline, model = results[family, kind, name], results[family, kind, prompt]
            for column in ("user", "item"):
                assert baseline.per_user[column].equals(model.per_user[column])
            assert baseline.candidates == model.candidates == {"catalogue": 0}.get(kind, 10)
    train = dataset.interactions.to_pylist()
    stars = [int(row["rating"] + 0.5) for row in train if row["split"] == 0 and row["rating"]]
    baseline = results["rating", "rating", "global_mean"].per_user
    assert baseline["prediction"][0].as_py() == pytest.approx(np.mean(stars))
    user = baseline["user"][0].as_py()
    own = [int(r["rating"] + 0.5) for r in train if r["split"] == 0 and r["user"] == user]
    by_user = results["rating", "rating", "user_mean"].per_user
    assert by_user["prediction"][0].as_py() == pytest.approx(np.mean(own))


def test_baselines_that_read_what_the_prompt_says(run, results):
    """The review's own words, and training sentences about the item that is asked about."""
    assert ("rating", "rating", "ridge_on_review_words") not in results
    stars = results["review", "rating", "ridge_on_review_words"]
    assert stars.n == results["review", "rating", "4-4"].n
    reviews = {(r["user"], r["item"]): r["text"] for r in run.dataset.reviews.to_pylist()}
    for row in results["review", "text", "leading_words_of_review"].per_user.to_pylist():
        said = " ".join(reviews[row["user"], row["item"]].split())
        assert said.startswith(row["prediction"])
        assert row["prediction"]
    known = {(r["item"], r["sentence"]) for r in run.dataset.reviews.to_pylist() if r["split"] == 0}
    for row in results["explanation", "text", "typical_sentence_of_item"].per_user.to_pylist():
        assert (row["item"], row["prediction"]) in known or row["item"] not in dict(known)


def test_a_sequential_prompt_ranks_the_direct_familys_candidates(run, logp_of):
    result, *baselines = evaluate_run(run, ("direct",), ("2-3",), limit=3, config=CONFIG)
    assert (result.family, result.kind, result.candidates) == ("direct", "candidates", 10)
    assert {b.family for b in baselines} == {"direct"}
    for row in result.per_user.to_pylist():
        candidates = example_of(run, "direct", "5-5", row["user"]).candidates
        inputs = example_of(run, "sequential", "2-3", row["user"]).inputs
        scores = logp_of(inputs, [run.dataset.item_ids[item] for item in candidates])
        assert row["rank"] == place_of(scores, candidates, row["item"])
    both = evaluate_run(run, ("direct", "sequential"), ("2-3", "5-5"), limit=3, config=CONFIG)
    asked = [(each.family, each.prompt_id) for each in both if not each.baseline]
    assert asked == [("sequential", "2-3"), ("direct", "2-3"), ("direct", "5-5")]
    alone = replace(run, families={"sequential": run.families["sequential"]})
    again = evaluate_family(alone, "direct", "2-3", "test", 3, config=CONFIG)
    assert again.per_user.equals(result.per_user)
    for families, prompts in ((("direct",), None), (("direct",), ("5-1",)), (("rating",), None)):
        with pytest.raises(UserError, match="families: found|prompts: '5-1'"):
            evaluate_run(alone, families, prompts, limit=3, config=CONFIG)


def test_candidate_popularity_by_hand(run, results):
    dataset = run.dataset
    train = dataset.interactions["split"].to_numpy() == 0
    counts = np.bincount(dataset.interactions["item"].to_numpy()[train], minlength=60)
    for row in results["direct", "candidates", "popularity"].per_user.to_pylist():
        candidates = example_of(run, "direct", "5-8", row["user"]).candidates
        place = place_of(counts[candidates], candidates, row["item"])
        assert row["rank"] == place


def test_most_frequent_sentence_is_a_training_one(run, results):
    reviews = [r for r in run.dataset.reviews.to_pylist() if r["split"] == 0 and r["sentence"]]
    counts = Counter(" ".join(r["sentence"].split()) for r in reviews)
    answer = most_frequent(run.dataset, "sentence")
    assert counts[answer] == max(counts.values())
    table = results["explanation", "text", "most_frequent_sentence"].per_user
    assert set(table["prediction"].to_pylist()) == {answer}


def test_results_are_written_and_shown_with_baselines(run, results):
    loaded = load_results(run.path / "evaluation" / "test-limit-12-max_length-16")
    assert {(r.family, r.prompt_id, r.kind) for r in loaded} == {
        (r.family, r.prompt_id, r.kind) for r in results.values()
    }
    text = format_results(loaded)
    for words in ("prompt 2-13 (unseen)", "popularity", "global mean", "NDCG@10", "ROUGE-L"):
        assert words in text
    assert "direct: the held-out item among 10 candidates\n" in text
    assert "direct: the held-out item among 10 candidates, asked one by one\n" in text


def test_leaky_ids_are_told_beside_every_figure(run, tmp_path, monkeypatch, capsys):
    leaky = copy(run.dataset)
    leaky.leaky = True
    families = make_families(leaky, load_templates("amazon"), run.vocabulary, FamilyConfig())
    other = replace(run, path=tmp_path, dataset=leaky, families=families)
    monkeypatch.setattr("p5jax.runs.run.Run.load", lambda path, mesh=None, step=None: other)
    arguments = ["evaluate", str(tmp_path), "--prompts", "1-4", "--limit", "2"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("item ids are `released`: leaky, no figure below")
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["leaky_item_ids"] is True
    recommender = SimpleNamespace(
        run=other, recommend=lambda *_, **__: [Recommended([], exact=True)]
    )
    monkeypatch.setattr(Recommender, "load", lambda *_, **__: recommender)
    assert main(["recommend", str(tmp_path), "--user", "x"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "leaky" in captured.err


def test_single_prompts_and_answers_of_two_words(run):
    found = evaluate_run(
        run, prompts=["1-4", "3-8"], split="validation", limit=3, config=CONFIG, report=len
    )
    kinds = {r.prompt_id: r.kind for r in found if not r.baseline}
    assert kinds == {"1-4": "choice", "3-8": "text"}
    (choice,) = (r for r in found if r.kind == "choice" and not r.baseline)
    for row in choice.per_user.to_pylist():
        assert row["prediction"] in ("like", "dislike")
        assert row["accuracy"] == (row["prediction"] == row["reference"])


def test_mistakes_are_named(run):
    with pytest.raises(UserError, match="families: found 'ratings', expected some of rating"):
        evaluate_run(run, families=["ratings"])
    with pytest.raises(UserError, match="prompts: '5-9' is not a prompt of direct"):
        evaluate_run(run, families=["direct"], prompts=["5-9"])
    with pytest.raises(UserError, match="split: found 'train'"):
        evaluate_family(run, "rating", "1-6", "train")
    with pytest.raises(UserError, match="limit: found 0"):
        evaluate_family(run, "rating", "1-6", "test", limit=0)
    with pytest.raises(UserError, match="beam: found 0"):
        EvaluationConfig(beam=0)


def test_yelp_prompts_have_defaults_and_kinds(run):
    families = make_families(run.dataset, load_templates("yelp"), run.vocabulary, FamilyConfig())
    for family in families.values():
        prompts = default_prompts(family, "test")
        assert {family.templates[id].seen for id in prompts} == {True, False}
        assert all(kind_of(family.templates[id]) for id in prompts)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.data())
def test_place_counts_better_and_earlier_equals(scores, data):
    target = data.draw(st.integers(0, len(scores) - 1))
    candidates = np.arange(100, 100 + len(scores))
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    assert place_of(np.array(scores), candidates, 100 + target) == order.index(target)


@given(st.integers(1, 50), st.integers(1, 60), st.integers(1, 60))
def test_smaller_limits_are_subsets(size, small, large):
    small, large = sorted((small, large))
    few, many = chosen_indices(size, small, 0), chosen_indices(size, large, 0)
    assert set(few) <= set(many) <= set(range(size))
    assert len(few) == min(small, size)
    assert (np.diff(few) > 0).all()


def test_the_trie_of_ids_lies_beside_the_parameters(run):
    trie = id_trie(run.families["sequential"], "2-1", run.vocabulary, "certified", run.params)
    host = Trie.of_texts(run.dataset.item_ids, run.vocabulary)
    for leaf, expected in zip(jax.tree.leaves(trie), jax.tree.leaves(host), strict=True):
        assert isinstance(leaf, jax.Array)
        np.testing.assert_array_equal(leaf, expected)
