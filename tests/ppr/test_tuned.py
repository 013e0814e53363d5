"""Tuning: batches, objectives, what each mode trains, and tuned folders."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace

import jax
import numpy as np
import pytest
from kept_training import last_params, stopped_at
from prompted_models import BACKBONE, PROMPT, TUNE, model_and_params

from p5jax.core.errors import Interrupted, UserError
from p5jax.ppr.backbone.pretraining import PretrainConfig, pretrain
from p5jax.ppr.backbone.sequences import SequenceConfig
from p5jax.ppr.cold.evaluation import evaluate_cold, rank_cases
from p5jax.ppr.cold.protocol import ColdStartConfig, cold_start
from p5jax.ppr.cold.recommend import parse_profile, recommend
from p5jax.ppr.model import PromptedScorer
from p5jax.ppr.profiles import ProfileConfig, fit_profiles
from p5jax.ppr.tuned import TUNED, VECTORS, Tuned, _read_profile, tune
from p5jax.ppr.tuning import CaseIterator, TuneConfig, tuning_objective, validation_users
from p5jax.training.checkpoints import params_fingerprint, restore_params
from p5jax.training.trainer import TrainConfig


@pytest.fixture(scope="module")
def cold(world):
    return cold_start(world, ColdStartConfig(share=0.5, first=4, negatives=20, k_shots=(1,)))


@pytest.fixture(scope="module")
def schema(world, cold):
    return fit_profiles(world, cold.training_users, ProfileConfig(("occupation", "age"), bins=4))


@pytest.fixture(scope="module")
def backbone(world, cold, tmp_path_factory):
    config = PretrainConfig(
        backbone=replace(BACKBONE, num_items=0),
        sequences=SequenceConfig(batch_size=16, widths=()),
        training=TrainConfig(steps=40, log_every=20, best_metric="validation/NDCG@10"),
        validation_users=10,
    )
    return pretrain(world, config, tmp_path_factory.mktemp("ppr") / "backbone", cold.warm)


def test_batches_hold_every_case_once_an_epoch_with_its_user_s_profile(cold, schema, world):
    codes = schema.profiles(world).codes_UxM
    features = np.column_stack([codes, np.arange(len(codes))])  # the last code tells the user
    cases = cold.cases("joint", cold.train)
    settings = replace(TUNE, negatives=5)
    iterator = CaseIterator(cold, cases, features, settings)
    rows = zip(cases.users, cases.items_NxS, cases.targets, strict=True)
    expected = sorted((*features[u], *items, target) for u, items, target in rows)
    for _ in range(2):
        seen = []
        for _ in range(-(-len(cases) // 16)):
            batch = next(iterator)
            asked = np.column_stack([batch["profiles"], batch["items"], batch["targets"]])
            seen += map(tuple, asked[batch["weights"] > 0].tolist())
            assert batch["negatives"].shape == (16, 5)
            for user, negatives in zip(batch["profiles"][:, -1], batch["negatives"], strict=True):
                assert not set(negatives.tolist()) & set(cold.sequence(user).tolist())
        assert sorted(seen) == expected
    state = iterator.get_state()
    expected = next(iterator)
    again = CaseIterator(cold, cases, features, settings)
    again.set_state(json.loads(json.dumps(state)))
    jax.tree.map(np.testing.assert_array_equal, next(again), expected)
    halves = [CaseIterator(cold, cases, features, settings, part, 2) for part in (0, 1)]
    for half in halves:
        half.set_state(state)
    both = [next(half) for half in halves]
    joined = {name: np.concatenate([b[name] for b in both]) for name in expected}
    jax.tree.map(np.testing.assert_array_equal, joined, expected)


def test_objective_without_dropout_is_bpr_on_user_vectors(cold, schema, world):
    features = schema.profiles(world)
    model, params = model_and_params(features.sizes, features=features.codes_UxM)
    cases = cold.cases("joint", cold.train)
    batch = next(CaseIterator(cold, cases, features.codes_UxM, replace(TUNE, negatives=3)))
    batch["weights"][10:] = 0
    loss_sum, sums = tuning_objective(model, TUNE)(params, batch, None)
    users = np.array(model.apply({"params": params}, batch["profiles"], batch["items"])[0])
    table = np.array(params["backbone"]["item_embedding"]["embedding"])
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    margins = np.einsum(
        "bd,bnd->bn", users, table[batch["targets"]][:, None] - table[batch["negatives"]]
    )
    each = np.log1p(np.exp(-margins.astype(np.float64))).mean(axis=1)
    assert float(loss_sum) == pytest.approx(each[:10].sum(), rel=1e-4)
    assert float(sums["weight"]) == 10


@pytest.mark.check
def test_contrastive_parts_are_added_and_can_be_left_out(cold, schema, world):
    features = schema.profiles(world)
    model, params = model_and_params(features.sizes, features=features.codes_UxM)
    model = replace(model, backbone_config=replace(BACKBONE, dropout_rate=0.0))
    cases = cold.cases("few-shot", cold.train)
    batch = next(CaseIterator(cold, cases, features.codes_UxM, TUNE))
    key = jax.random.key(1)

    def loss(**changes):
        return float(tuning_objective(model, replace(TUNE, **changes))(params, batch, key)[0])

    neither = loss(contrast_prompt=False, contrast_behaviour=False)
    plain = float(tuning_objective(model, TUNE)(params, batch, None)[0])
    assert neither == pytest.approx(plain, rel=1e-5)
    prompt, behaviour = loss(contrast_behaviour=False), loss(contrast_prompt=False)
    assert prompt > neither
    assert behaviour > neither
    assert loss() - neither == pytest.approx(prompt - neither + behaviour - neither, rel=1e-4)
    doubled = loss(contrastive_weight=0.2)
    assert doubled - neither == pytest.approx(2 * (loss() - neither), rel=1e-4)
    # Views that equal the state: each row's positive is as near as can be.
    same = loss(mask_rate=0.0) - neither
    states = np.array(model.apply({"params": params}, batch["profiles"], batch["items"])[1])
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    views = np.concatenate([unit, unit]).astype(np.float64)
    logits = views @ views.T / TUNE.temperature
    np.fill_diagonal(logits, -np.inf)
    own = logits[np.arange(32), (np.arange(32) + 16) % 32]
    each = np.log(np.exp(logits).sum(axis=1)) - own
    assert same == pytest.approx(0.1 * 2 * each.sum() / 2, rel=1e-3)


CHANGED = {
    "light": {"generator", "profile", "profile_mlp"},
    "full": {"backbone", "generator", "profile", "profile_mlp"},
    "finetune": {"backbone", "profile", "profile_mlp"},
}


DECAYED = replace(TUNE, weight_decay=0.1)


@pytest.fixture(scope="module")
def light(backbone, cold, schema, tmp_path_factory):
    return tune(backbone, cold, schema, DECAYED, PROMPT, tmp_path_factory.mktemp("tuned") / "light")


@pytest.mark.parametrize(
    "mode", [pytest.param(m, marks=[] if m == "light" else [pytest.mark.check]) for m in CHANGED]
)
def test_modes_train_exactly_their_parameters(backbone, cold, schema, tmp_path, light, mode):
    """Weight decay included: what is not the mode's keeps every bit."""
    tuned = light
    if mode != "light":
        settings = replace(DECAYED, mode=mode)
        tuned = tune(backbone, cold, schema, settings, PROMPT, tmp_path / mode)
    before = jax.tree.map(np.array, tuned.initial(0))
    after = jax.tree.map(np.array, last_params(tuned.path))
    assert set(after) == CHANGED[mode] | {"backbone"}
    changed = set()
    for (path, one), two in zip(
        jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True
    ):
        if one.tobytes() != two.tobytes():
            changed.add(path[0].key)
        elif path[0].key in CHANGED[mode]:
            name = jax.tree_util.keystr(path)
            assert "position" in name or "'key'" in name, name  # nothing may depend on these
    assert changed == CHANGED[mode]


def test_a_tuned_folder_scores_as_when_trained_and_refuses_other_backbones(
    backbone, cold, schema, light, tmp_path, world
):
    shutil.copytree(light.path, tmp_path / "light")
    last = last_params(light.path)
    loaded = Tuned.load(tmp_path / "light")
    table = evaluate_cold(cold, {"light": loaded.scorer, "pretrain": backbone.scorer})
    assert set(table["method"].to_pylist()) >= {"light", "pretrain", "popularity"}
    best = restore_params(tmp_path / "light" / "checkpoints", jax.eval_shape(light.initial))
    users, items = np.array([0, 5]), np.array([[0, 0], [3, 4]])
    np.testing.assert_array_equal(
        loaded.scorer(users, items), PromptedScorer(light.model, best, light.features)(users, items)
    )
    resumed = tune(backbone, cold, schema, DECAYED, PROMPT, tmp_path / "light")
    jax.tree.map(np.testing.assert_array_equal, last_params(resumed.path), last)
    with pytest.raises(UserError, match=r"tune\.mode = 'light'"):
        tune(backbone, cold, schema, replace(DECAYED, mode="full"), PROMPT, tmp_path / "light")
    others = cold_start(world, replace(cold.config, seed=1))
    with pytest.raises(UserError, match="pre-trained on other users"):
        tune(backbone, others, schema, TUNE, PROMPT, tmp_path / "other")
    manifest = json.loads((tmp_path / "light" / "tuned.json").read_text())
    manifest["backbone"]["params"] = "0" * 64
    (tmp_path / "light" / "tuned.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="tuned from a backbone with parameters 000000000000"):
        Tuned.load(tmp_path / "light")


@pytest.mark.check
def test_stopped_tuning_resumes_to_the_same_bits(backbone, cold, schema, tmp_path):
    def tuned(name):
        return last_params(tune(backbone, cold, schema, TUNE, PROMPT, tmp_path / name).path)

    whole = tuned("whole")
    with stopped_at(4), pytest.raises(Interrupted, match="step 4") as stopped:
        tuned("stopped")
    assert stopped.value.signal == signal.SIGTERM
    with pytest.raises(UserError, match="found an unfinished tuning"):
        Tuned.load(tmp_path / "stopped", backbone)
    jax.tree.map(np.testing.assert_array_equal, tuned("stopped"), whole)


@pytest.mark.check
def test_vectors_of_any_type_are_kept_as_float32(backbone, cold, tmp_path, world, monkeypatch):
    monkeypatch.setattr("p5jax.ppr.tuned.train", lambda *arguments, **settings: None)
    vectors = np.random.default_rng(0).normal(size=(world.num_users, 5))
    tuned = tune(backbone, cold, vectors, TUNE, PROMPT, tmp_path / "vectors")
    kept = vectors.astype(np.float32)
    read = _read_profile(tuned.path, world.num_users)
    np.testing.assert_array_equal(read, kept, strict=True)
    assert TUNED.read(tuned.path)["profile"] == params_fingerprint({"vectors": kept})
    np.save(tuned.path / VECTORS, vectors)  # as earlier versions did
    np.testing.assert_array_equal(_read_profile(tuned.path, world.num_users), vectors, strict=True)
    for wrong in (vectors[1:], vectors[:, 0], vectors * 1e300):
        with pytest.raises(UserError, match=r"profile: found float64 of shape \("):
            tune(backbone, cold, wrong, TUNE, PROMPT, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


@pytest.mark.check
def test_a_longer_tuning_goes_on_where_the_shorter_ended(backbone, cold, schema, tmp_path):
    def tuned(name, steps):
        return tune(backbone, cold, schema, replace(TUNE, steps=steps), PROMPT, tmp_path / name)

    whole = tuned("whole", 5)
    tuned("longer", 3)
    longer = tuned("longer", 5)
    jax.tree.map(np.testing.assert_array_equal, last_params(longer.path), last_params(whole.path))
    with pytest.raises(UserError, match="at step 5, beyond the 3 steps"):
        tuned("longer", 3)
    assert Tuned.load(tmp_path / "longer", backbone).config.steps == 5


@pytest.mark.check
def test_vector_profiles_are_kept_with_the_folder(backbone, cold, tmp_path, world):
    vectors = np.random.default_rng(0).normal(size=(world.num_users, 5)).astype(np.float32)
    tune(backbone, cold, vectors, TUNE, PROMPT, tmp_path / "vectors")
    loaded = Tuned.load(tmp_path / "vectors", backbone)
    np.testing.assert_array_equal(loaded.features, vectors)
    with pytest.raises(UserError, match="its profiles are vectors"):
        recommend(loaded, profile={"age": "3"})


def test_recommendations_for_users_and_for_profiles(backbone, cold, light, world):
    tuned = Tuned.load(light.path, backbone)
    user = int(cold.test[0])
    items = recommend(tuned, user=world.user_keys[user], k=world.num_items)
    sequence = world.sequence(user)
    keys = [item.item for item in items]
    assert len(set(keys)) == len(keys) == world.num_items - len(sequence)
    assert not {world.item_keys[i] for i in sequence} & set(keys)
    history = np.zeros((1, 12), np.int32)
    history[0, 12 - min(12, len(sequence)) :] = sequence[-12:] + 1
    scores = np.array(tuned.scorer(np.array([user]), history)[0])
    scores[sequence] = -np.inf
    assert keys[0] == world.item_keys[int(scores.argmax())]
    # A profile alone: what a user of that profile without a history gets.
    codes = {
        "occupation": world.users["occupation"][user].as_py(),
        "age": str(world.users["age"][user].as_py()),
    }
    alone = recommend(tuned, profile=codes, k=3)
    zero = tuned.scorer(np.array([user]), np.zeros((1, 12), np.int32))[0]
    assert [item.score for item in alone] == pytest.approx(np.sort(zero)[::-1][:3], rel=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "found neither"),
        ({"user": "nobody"}, "not in the dataset"),
        ({"profile": {"agee": "3"}}, "did you mean age"),
        ({"profile": {"occupation": "astronaut"}}, "occupation=astronaut: expected one of"),
        ({"profile": {"age": "old"}}, "age=old: expected a number"),
        ({"profile": {"age": "30"}, "k": 0}, "k: found 0"),
    ],
)
def test_what_a_user_mistypes_is_one_line(light, given, message):
    with pytest.raises(UserError, match=message) as caught:
        recommend(light, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [["age"], ["=3"], ["age="], ["age=3", "age=4"]])
def test_profile_words_that_are_none_are_refused(words):
    with pytest.raises(UserError, match="^profile: found"):
        parse_profile(words)


def test_validation_users_are_part_of_the_tuning_users():
    users = np.arange(30, 50)
    rest, chosen = validation_users(users, 0.2)
    assert len(chosen) == 4
    assert sorted([*rest, *chosen]) == users.tolist()
    assert len(validation_users(users, 0.0)[1]) == 0
    with pytest.raises(UserError, match="^validation_share: found 0.1 of 2"):
        validation_users(users[:2], 0.1)


@pytest.mark.parametrize(
    "changes",
    [
        *({"mode": "lite"}, {"loss": "bp"}, {"temperature": 0.0}, {"mask_rate": 1.0}, {"steps": 0}),
        *({"kind": "warm"}, {"kind": "0-shot"}, {"seed": -1}, {"noise_seed": -1}),
        *({"profile_noise": -0.1}, {"profile_noise": 1.1}),
    ],
)
def test_settings_that_cannot_be_are_refused(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        TuneConfig(**changes)


def test_a_kind_without_cases_is_one_line(cold, schema, world):
    features = schema.profiles(world).codes_UxM
    cases = cold.cases("50-shot", cold.train)
    with pytest.raises(UserError, match="found no 50-shot case of the tuning users"):
        CaseIterator(cold, cases, features, replace(TUNE, kind="50-shot"))
    with pytest.raises(UserError, match="found no 50-shot one to rank"):
        rank_cases(lambda *asked: np.zeros((1, 1)), cases, cold.num_items, "candidates")
