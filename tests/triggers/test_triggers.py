"""Trigger prompts: their text, their scores, the choice among candidates, and the saved folder."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from small_model import token_log_probabilities
from trigger_run import random_run

from p5jax.core.errors import UserError
from p5jax.evaluation.evaluators import EvaluationConfig, evaluate_family
from p5jax.evaluation.results import FamilyResult
from p5jax.triggers import evaluation
from p5jax.triggers.ablation import ablate
from p5jax.triggers.layout import FAMILIES, POSITIONS, PROMPT_ID, USER_PLACES, Layout
from p5jax.triggers.personalize import choose_for_users
from p5jax.triggers.prompt import TriggeredRun
from p5jax.triggers.race import p_value, race
from p5jax.triggers.rounds import Rounds, SearchConfig
from p5jax.triggers.surrogate import CRITERIA, SurrogateConfig, list_values

USERS = 24


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    return random_run(world.path, tmp_path_factory.mktemp("triggers") / "run")


LAYOUT = Layout(3, 1)


def config(family="sequential", layout=LAYOUT, **changes):
    surrogate = SurrogateConfig(batch_size=16, max_length=8)
    settings = {"users": USERS, "gradient_examples": 16, "epochs": 2, "surrogate": surrogate}
    return SearchConfig(family, layout, **(settings | changes))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("user_place", USER_PLACES)
def test_prompts_are_the_tokens_of_their_text(run, family, position, user_place):
    """The open places are where the words of the saved prompt stand, for every layout."""
    layout = Layout(3, 2, position, user_place)
    rounds = Rounds(run, config(family, layout, users=6))
    allowed = np.flatnonzero(run.vocabulary.trigger_tokens)
    rounds.users = np.random.default_rng(0).choice(allowed, size=rounds.users.shape)
    triggered = TriggeredRun(run, rounds.prompt(), run.path)
    texts = triggered.families[family]
    written = {}
    for index in range(texts.size("validation", PROMPT_ID)):
        example = texts.example("validation", index, prompt_id=PROMPT_ID)
        written[example.user, example.item] = [*run.vocabulary.encode(example.inputs), 1]
    examples = rounds.validation
    for row in range(len(examples)):
        slots = rounds.slots(examples.users[[row]])
        tokens = examples.prompts(np.array([row]), slots)[0]
        expected = written[examples.users[row], examples.items[row]]
        assert tokens[tokens > 0].tolist() == expected
        assert slots[0].tolist() == tokens[examples.places[row]].tolist()


@pytest.mark.parametrize(
    ("position", "user_place", "expected"),
    [
        ("suffix", "last", ((), (0, 1, 2, 3))),
        ("suffix", "middle", ((), (3, 0, 1, 2))),
        ("suffix", "first", ((3,), (0, 1, 2))),
        ("prefix", "last", ((0, 1, 2), (3,))),
        ("both", "last", ((0, 1), (2, 3))),
    ],
)
def test_layouts(position, user_place, expected):
    assert Layout(3, 1, position, user_place).sides == expected


@pytest.mark.parametrize("family", ["sequential", "direct"])
def test_batched_values_equal_the_ordinary_evaluators(run, family):
    """All candidates of a position at once, against one evaluation of each prompt."""
    rounds = Rounds(run, config(family, users=0, surrogate=SurrogateConfig(beam=20, batch_size=16)))
    candidates = np.flatnonzero(run.vocabulary.trigger_tokens)[[5, 40, 90]]
    examples = rounds.validation
    rows = np.tile(np.arange(len(examples)), len(candidates))
    slots = rounds.slots(examples.users[rows])
    slots[:, 1] = np.repeat(candidates, len(examples))
    found = rounds.surrogate.values(examples, rows, slots).reshape(len(candidates), -1)
    beam = EvaluationConfig(batch_size=8, method="beam", beam=20)
    for candidate, values in zip(candidates, found, strict=True):
        rounds.task[1] = candidate
        triggered = TriggeredRun(run, rounds.prompt(), run.path)
        result = evaluate_family(
            triggered, family, PROMPT_ID, "validation", config=beam, report=lambda line: None
        )
        table = result.per_user.to_pylist()
        expected = {row["user"]: row["HR@5"] + row["NDCG@5"] for row in table}
        assert sum(expected.values()) > 0  # or nothing is compared
        for user, value in zip(examples.users, values, strict=True):
            assert value == pytest.approx(expected[user], abs=1e-12)


@pytest.mark.parametrize("criterion", ["metric", "loss"])
def test_values_of_explanations_equal_the_ordinary_evaluators(run, criterion):
    """Greedy texts by sentence BLEU-4 and ROUGE-L; the loss by each example alone."""
    surrogate = SurrogateConfig(criterion, beam=1, batch_size=16, max_length=16)
    rounds = Rounds(run, config("explanation", users=20, surrogate=surrogate))
    examples, rows = rounds.validation, np.arange(len(rounds.validation))
    slots = rounds.slots(examples.users)
    found = rounds.surrogate.values(examples, rows, slots)
    if criterion == "loss":
        for row in rows[:4]:
            tokens, target = examples.prompts(rows[[row]], slots[[row]]), examples.targets[[row]]
            logp = token_log_probabilities(run.model, run.params, tokens, target)[0, 0]
            real = target[0] > 0
            expected = np.take_along_axis(logp, target[0][:, None], axis=1)[real].mean()
            assert found[row] == pytest.approx(expected, abs=1e-4)
        return
    triggered = TriggeredRun(run, rounds.prompt(), run.path)
    setting = EvaluationConfig(batch_size=8, max_length=16)
    result = evaluate_family(
        triggered, "explanation", PROMPT_ID, "validation", config=setting, report=lambda line: None
    )
    table = {(row["user"], row["item"]): row for row in result.per_user.to_pylist()}
    for user, item, value in zip(examples.users, examples.items, found, strict=True):
        row = table[user, item]
        assert value == pytest.approx(row["sentence BLEU-4"] + 0.1 * row["ROUGE-L"], abs=1e-9)


def test_list_values_by_hand():
    lists, targets = np.array([[4, 2, 9, 1, 7], [4, 2, 9, 1, 7], [0, 1, 2, 3, 5]]), [2, 7, 4]
    expected = [1 + 0.5 / np.log2(3), 1 + 0.5 / np.log2(6), 0.0]
    np.testing.assert_allclose(list_values(lists, np.array(targets), 0.5), expected)


def test_p_value_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    before, after = rng.random(40), rng.random(40) + 0.1
    expected = stats.ttest_rel(after, before, alternative="greater").pvalue
    assert p_value(after - before) == pytest.approx(expected)
    assert p_value(np.zeros(9)) == p_value(-np.ones(9)) == 1.0
    assert p_value(np.ones(3)) == 1 / 8  # the sign test's, where all are alike


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.booleans())
def test_race_ends_with_the_best_of_those_compared_on_all(seed, candidates, racing):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(4, 80))
    table = rng.integers(0, 3, (candidates, count)).astype(float)
    incumbent = rng.integers(0, 3, count).astype(float)
    asked = []

    def values(chosen, places):
        asked.extend(zip(chosen.tolist(), places.tolist(), strict=True))
        return table[chosen, places]

    winner, found, scored = race(values, incumbent, candidates, 0.1 if racing else None, rng)
    assert scored == len(asked) == len(set(asked))  # nothing is scored twice
    means = table.mean(axis=1)
    whole = {c for c, n in zip(*np.unique([c for c, _ in asked], return_counts=True), strict=True)
             if n == count}  # fmt: skip
    if winner >= 0:
        np.testing.assert_array_equal(found, table[winner])
        assert winner in whole
        assert means[winner] == max(means[list(whole)]) > incumbent.mean()
    else:
        assert all(means[c] <= incumbent.mean() for c in whole)
    if not racing:
        assert len(whole) == candidates


def test_race_drops_what_is_plainly_worse_early():
    incumbent = np.zeros(800)
    table = np.stack([np.full(800, -1.0), np.random.default_rng(0).normal(0.5, 1, 800)])
    calls = []

    def values(chosen, places):
        calls.append(np.bincount(chosen, minlength=2))
        return table[chosen, places]

    winner, _, _ = race(values, incumbent, 2, 0.05, np.random.default_rng(0))
    assert winner == 1
    assert sum(calls)[0] == 100  # one eighth
    assert sum(calls)[1] == 800


def test_each_user_gets_the_candidate_that_is_best_on_its_own_examples(run):
    rounds = Rounds(run, config(layout=Layout(2, 1)))
    examples, users = rounds.evidence, np.unique(rounds.validation.users)
    allowed = np.flatnonzero(run.vocabulary.trigger_tokens)
    candidates = np.random.default_rng(0).choice(allowed, (len(users), 4))

    class Worth:
        """A made-up value: a hash of the example and of the token in the user's slot."""

        least = 0.0

        def values(self, examples, rows, slots):
            return ((rows * 31 + slots[:, 2] * 17) % 7).astype(float)

    rounds.surrogate = Worth()
    chosen = choose_for_users(rounds, 2, users, candidates)
    for user, own, token in zip(users, candidates, chosen, strict=True):
        rows = np.flatnonzero(examples.users == user)
        assert 1 <= len(rows) <= rounds.config.evidence
        assert len(set(examples.items[rows].tolist())) == len(rows)  # no example twice
        current = int(rounds.users[user, 0])
        totals = {t: sum((row * 31 + t * 17) % 7 for row in rows) for t in (current, *own.tolist())}
        assert totals[token] == max(totals.values())
        if totals[current] == max(totals.values()):
            assert token == current


def test_a_user_round_that_changed_nothing_is_followed_by_the_next_best_tokens(run, monkeypatch):
    """K at a time in the order of -e . g, as NumPy has it; a change begins again with the best."""
    rounds = Rounds(run, config(layout=Layout(2, 1), candidates=3))
    offered = []

    def refuse(rounds, slot, users, candidates):
        offered.append(candidates)
        return rounds.users[users, slot - 2]

    monkeypatch.setattr("p5jax.triggers.rounds.choose_for_users", refuse)
    for _ in range(3):
        rounds.user_round()
    gradient = rounds.gradients(rounds.evidence).users[:, 0]
    users = np.intersect1d(rounds.validation.users, rounds.evidence.users)
    scores = -(gradient[users] @ np.asarray(rounds.embeddings).T)
    scores[:, ~rounds.allowed] = -np.inf
    scores[np.arange(len(users)), rounds.users[users, 0]] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :9]
    assert np.array_equal(np.concatenate(offered, axis=1), best)
    rounds._changed_to(rounds.values())
    rounds.user_round()
    assert np.array_equal(offered[3], best[:, :3])


def test_evidence_is_of_training_alone(run, world):
    """No validation or test item is a target or in a prompt of what user tokens are chosen by."""
    rounds = Rounds(run, config(layout=Layout(2, 1)))
    for row in range(len(rounds.evidence)):
        user = rounds.evidence.users[row]
        training = set(world.sequence(user)[:-2].tolist())
        assert rounds.evidence.items[row] in training
        text = run.vocabulary.decode(rounds.evidence.base[row][rounds.evidence.base[row] > 2])
        said = set(re.findall(r"\d+", text.split(" ", 1)[1]))
        assert said <= {world.item_ids[item] for item in training}


def test_settings_that_mean_nothing_are_refused(run):
    for wrong, message in (
        ({"family": "rating"}, "family: found 'rating'"),
        ({"initial": "zzqx"}, "initial: found 'zzqx'"),
        ({"accept_level": 2.0}, "accept_level"),
        ({"racing_level": 1.0}, "racing_level"),
        ({"candidates": 4000}, r"candidates: found 4000, expected fewer than the \d+ words"),
        ({"users": 1}, "users: found one validation user"),
        ({"seed": -1}, "seed: found -1"),
        ({"layout": Layout(4, 0), "initial": "the a of and to in"}, "initial"),
    ):
        with pytest.raises(UserError, match=message):
            Rounds(run, config(**({"family": "sequential"} | wrong)))
    with pytest.raises(UserError, match="no trigger token"):
        Layout(0, 0)


def test_seeds_are_averaged_by_user_with_an_interval_of_their_own():
    def result(values):
        metrics = dict.fromkeys(evaluation.SHOWN["sequential"], values)
        table = pa.table({"user": ["a", "b"], "item": ["x", "y"], **metrics})
        return FamilyResult("sequential", "2-3", True, 2, {}, table, [], "ranking")

    manual = result([0.0, 1.0])
    seeds = [result([1.0, 1.0]), result([0.0, 0.5]), result([0.5, 0.0])]
    average = evaluation.averaged(seeds)
    assert average.per_user["HR@5"].to_pylist() == [0.5, 0.5]
    # the means 1, .25, .25 less .5: mean 0, standard error .25, t(.975, 2) = 4.3027
    low, high = evaluation._over_seeds([0.5, -0.25, -0.25])
    assert (low, high) == pytest.approx((-1.07566, 1.07566), abs=1e-4)
    row = evaluation._row("personalised", seeds, manual)
    assert row.differences["HR@5"].difference == pytest.approx(0.0)
    assert row.over_seeds["HR@5"] == pytest.approx((low, high))


def test_an_ablation_is_a_search_for_each_value_side_by_side(run, tmp_path):
    """Each folder holds the search with that value alone changed; the table has them all."""
    searched = config(users=8, epochs=1)
    rows = ablate(run, searched, "criterion", tmp_path, limit=6, report=lambda line: None)
    found = {row.prompts for row in rows if row.kind == "personalised"}
    assert found == {("criterion-metric",), ("criterion-loss",)}
    for value in CRITERIA:
        manifest = json.loads((tmp_path / f"criterion-{value}" / "triggers.json").read_text())
        surrogate = asdict(replace(searched.surrogate, criterion=value))
        assert manifest["settings"] == json.loads(
            json.dumps(asdict(searched) | {"surrogate": surrogate})
        )
    with pytest.raises(UserError, match="vary: found 'colour'"):
        ablate(run, searched, "colour", tmp_path)
    with pytest.raises(UserError, match="user_place without user tokens"):
        ablate(run, config(layout=Layout(3, 0)), "user_place", tmp_path)
