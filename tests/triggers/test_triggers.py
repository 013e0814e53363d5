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
from p5jax.evaluation.evaluators import evaluate_family
from p5jax.evaluation.results import FamilyResult
from p5jax.evaluation.settings import EvaluationConfig
from p5jax.triggers import evaluation
from p5jax.triggers.ablation import ablate
from p5jax.triggers.layout import POSITIONS, PROMPT_ID, TRIGGER_FAMILIES, USER_PLACES, Layout
from p5jax.triggers.moves import user_tokens_move
from p5jax.triggers.personalize import choose_for_users
from p5jax.triggers.problem import Problem
from p5jax.triggers.prompt import TriggeredRun
from p5jax.triggers.race import p_value, race
from p5jax.triggers.rounds import Rounds
from p5jax.triggers.settings import CRITERIA, SearchConfig, SurrogateConfig
from p5jax.triggers.state import SearchState
from p5jax.triggers.surrogate import list_values

USERS = 24


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    return random_run(world.path, tmp_path_factory.mktemp("triggers") / "run")


LAYOUT = Layout(3, 1)


def config(family="sequential", layout=LAYOUT, **changes):
    surrogate = SurrogateConfig(batch_size=16, max_length=8)
    settings = {"users": USERS, "gradient_examples": 16, "epochs": 2, "surrogate": surrogate}
    return SearchConfig(family, layout, **(settings | changes))


@pytest.mark.parametrize("family", TRIGGER_FAMILIES)
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("user_place", USER_PLACES)
def test_prompts_are_the_tokens_of_their_text(run, family, position, user_place):
    """The open positions are where the words of the saved prompt stand, for every layout."""
    layout = Layout(3, 2, position, user_place)
    problem = Problem(run, config(family, layout, users=6))
    allowed, prompt = np.flatnonzero(run.vocabulary.trigger_tokens), problem.initial_prompt()
    own = np.random.default_rng(0).choice(allowed, size=prompt.users.shape)
    prompt = replace(prompt, users=own)
    triggered = TriggeredRun(run, prompt, run.path)
    texts = triggered.families[family]
    written = {}
    for index in range(texts.size("validation", PROMPT_ID)):
        example = texts.example("validation", index, prompt_id=PROMPT_ID)
        written[example.user, example.item] = [*run.vocabulary.encode(example.inputs), 1]
    examples = problem.validation
    for row in range(len(examples)):
        slots = prompt.slots(examples.users[[row]])
        tokens = examples.filled(np.array([row]), slots)[0]
        expected = written[examples.users[row], examples.items[row]]
        assert tokens[tokens > 0].tolist() == expected
        assert slots[0].tolist() == tokens[examples.positions[row]].tolist()


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


@pytest.mark.parametrize("family", ["sequential", pytest.param("direct", marks=pytest.mark.check)])
def test_batched_values_equal_the_ordinary_evaluators(run, family):
    """All candidates of a position at once, against one evaluation of each prompt."""
    surrogate = SurrogateConfig(beam=20, batch_size=16)
    problem = Problem(run, config(family, users=0, surrogate=surrogate))
    candidates = np.flatnonzero(run.vocabulary.trigger_tokens)[[5, 40, 90]]
    examples, prompt = problem.validation, problem.initial_prompt()
    rows = np.tile(np.arange(len(examples)), len(candidates))
    tokens = np.repeat(candidates, len(examples))
    found = problem.values_with(prompt, 1, tokens, examples, rows).reshape(len(candidates), -1)
    beam = EvaluationConfig(batch_size=8, method="beam", beam=20)
    for candidate, values in zip(candidates, found, strict=True):
        task = np.array([prompt.task[0], candidate, prompt.task[2]], np.int32)
        triggered = TriggeredRun(run, replace(prompt, task=task), run.path)
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
    problem = Problem(run, config("explanation", users=20, surrogate=surrogate))
    examples, rows = problem.validation, np.arange(len(problem.validation))
    prompt = problem.initial_prompt()
    slots, found = prompt.slots(examples.users), problem.values(prompt)
    if criterion == "loss":
        for row in rows[:4]:
            tokens, target = examples.filled(rows[[row]], slots[[row]]), examples.targets[[row]]
            logp = token_log_probabilities(run.model, run.params, tokens, target)[0, 0]
            real = target[0] > 0
            expected = np.take_along_axis(logp, target[0][:, None], axis=1)[real].mean()
            assert found[row] == pytest.approx(expected, abs=1e-4)
        return
    triggered = TriggeredRun(run, prompt, run.path)
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

    def values(chosen, examples):
        asked.extend(zip(chosen.tolist(), examples.tolist(), strict=True))
        return table[chosen, examples]

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

    def values(chosen, examples):
        calls.append(np.bincount(chosen, minlength=2))
        return table[chosen, examples]

    winner, _, _ = race(values, incumbent, 2, 0.05, np.random.default_rng(0))
    assert winner == 1
    assert sum(calls)[0] == 100  # one eighth
    assert sum(calls)[1] == 800


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, -np.inf]))
def test_each_user_gets_the_candidate_that_is_best_on_its_own_examples(seed, least):
    """Against sums user by user; the current token stays where no candidate is above it."""
    rng = np.random.default_rng(seed)
    users, width, examples = int(rng.integers(1, 6)), int(rng.integers(1, 5)), 12
    owners = np.concatenate([np.arange(users), rng.integers(users, size=examples - users)])
    table = rng.integers(0, 3, (examples, 20)).astype(float)
    table += 0.0 if least == 0.0 else -5.0
    tokens = np.stack([rng.permutation(20)[: width + 1] for _ in range(users)])
    current, candidates = tokens[:, 0], tokens[:, 1:]
    chosen = choose_for_users(lambda e, t: table[e, t], owners, current, candidates, least)
    for user in range(users):
        totals = table[owners == user].sum(axis=0)
        best = max(totals[tokens[user]])
        assert totals[chosen[user]] == best
        if totals[current[user]] == best:
            assert chosen[user] == current[user]


def test_a_round_of_users_tokens_takes_what_is_best_on_each_users_evidence(run):
    """With a made-up value of the example and of the token in the user's slot."""
    problem = Problem(run, config(layout=Layout(2, 1), accept_level=0.999))

    class Worth:
        least = 0.0

        def values(self, examples, rows, slots):
            return ((rows * 31 + slots[:, 2] * 17) % 7).astype(float)

    problem.surrogate = Worth()
    prompt, evidence = problem.initial_prompt(), problem.evidence
    before, gradients = problem.values(prompt), problem.gradients(prompt, evidence).users
    move = user_tokens_move(problem, prompt, before, 0, gradients, (0,))
    users = np.unique(evidence.users)
    current = prompt.users[users, 0]
    candidates = problem.candidates(gradients[users, 0], current)
    assert move.accepted is not None
    chosen = move.accepted.users[users, 0]
    for user, now, own, token in zip(users, current, candidates, chosen, strict=True):
        rows = np.flatnonzero(evidence.users == user)
        totals = {t: sum((row * 31 + t * 17) % 7 for row in rows) for t in (now, *own.tolist())}
        assert totals[token] == max(totals.values())
        if totals[now] == max(totals.values()):
            assert token == now
    assert move.changed == (chosen != current).sum() > 0
    np.testing.assert_array_equal(move.values, problem.values(move.accepted))
    assert move.gain == pytest.approx((move.values - before).mean())
    assert move.p_value == pytest.approx(
        stats.ttest_rel(move.values, before, alternative="greater").pvalue
    )


@pytest.mark.check
def test_a_user_round_that_changed_nothing_is_followed_by_the_next_best_tokens(run, monkeypatch):
    """K at a time in the order of -e . g, as NumPy has it; a change begins again with the best."""
    layout = Layout(0, 1)  # every round is one of users' tokens
    rounds = Rounds(run, config(layout=layout, candidates=3, accept_level=1.0, evidence=2))
    problem, offered, answer = rounds.problem, [], []

    def choose(values, owners, current, candidates, least):
        offered.append(candidates)
        return candidates[:, 0] if answer.pop() else current

    monkeypatch.setattr("p5jax.triggers.moves.choose_for_users", choose)

    def best(prompt):
        """All users' tokens by -e . g under a prompt, best first."""
        users = np.intersect1d(problem.validation.users, problem.evidence.users)
        gradient = problem.gradients(prompt, problem.evidence).users[users, 0]
        scores = -(gradient @ np.asarray(problem.embeddings).T)
        scores[:, ~problem.allowed] = -np.inf
        scores[np.arange(len(users)), prompt.users[users, 0]] = -np.inf
        return np.argsort(-scores, axis=1, kind="stable")

    expected = best(rounds.state.prompt)
    for tried in range(3):
        assert rounds.state.tried == (tried,)
        answer.append(tried == 2)
        assert rounds.advance()["accepted"] == (tried == 2)
    assert np.array_equal(np.concatenate(offered, axis=1), expected[:, :9])
    assert rounds.state.tried == (0,)
    answer.append(False)
    rounds.advance()
    assert np.array_equal(offered[3], best(rounds.state.prompt)[:, :3])


def test_epochs_of_shared_and_of_own_tokens_alternate(run):
    """A state counts rounds, epochs and those without a change; JSON gives the same state back."""
    prompt = Problem(run, config(layout=Layout(2, 3))).initial_prompt()
    other, state = replace(prompt, task=prompt.task + 1), SearchState.start(prompt)
    turns, idle = [], []
    for change in (False, True, False, False, False, False, False, True, False, False):
        turns.append(state.users_turn)
        accepted = other if change else None
        last, state = (
            state,
            (state.after_users(1, accepted) if state.users_turn else state.after_shared(accepted)),
        )
        idle.append(state.idle)
        assert state.round == last.round + 1
        assert SearchState.from_json(json.loads(json.dumps(state.to_json())), state.prompt) == state
    assert turns == [False] * 2 + [True] * 3 + [False] * 2 + [True] * 3
    assert idle == [0, 0, 0, 0, 1, 1, 2, 2, 2, 0]
    assert (state.epoch, state.left, state.tried) == (4, 0, (0, 2, 0))
    assert state.prompt is other


def test_evidence_is_of_training_alone(run, world):
    """No validation or test item is a target or in a prompt of what user tokens are chosen by."""
    problem = Problem(run, config(layout=Layout(2, 1)))
    evidence = problem.evidence
    assert set(evidence.users.tolist()) == set(problem.validation.users.tolist())
    for user in np.unique(evidence.users):
        items = evidence.items[evidence.users == user].tolist()
        assert 1 <= len(items) == len(set(items)) <= problem.config.evidence
    for row in range(len(evidence)):
        user = evidence.users[row]
        training = set(world.sequence(user)[:-2].tolist())
        assert evidence.items[row] in training
        text = run.vocabulary.decode(evidence.base[row][evidence.base[row] > 2])
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
        metrics = dict.fromkeys(evaluation.COMPARED_METRICS["sequential"], values)
        table = pa.table({"user": ["a", "b"], "item": ["x", "y"], **metrics})
        return FamilyResult("sequential", "2-3", True, 2, {}, table, [], "ranking")

    manual = result([0.0, 1.0])
    seeds = [result([1.0, 1.0]), result([0.0, 0.5]), result([0.5, 0.0])]
    average = evaluation.averaged_over_seeds(seeds)
    assert average.per_user["HR@5"].to_pylist() == [0.5, 0.5]
    # the means 1, .25, .25 less .5: mean 0, standard error .25, t(.975, 2) = 4.3027
    low, high = evaluation.interval_over_seeds([0.5, -0.25, -0.25])
    assert (low, high) == pytest.approx((-1.07566, 1.07566), abs=1e-4)
    row = evaluation.compared("personalised", seeds, manual)
    assert row.differences["HR@5"].difference == pytest.approx(0.0)
    assert row.over_seeds["HR@5"] == pytest.approx((low, high))


@pytest.mark.check
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
