"""Prompted models against NumPy, what each mode trains, and tuned folders."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from p5jax.core.errors import UserError
from p5jax.models.initial import fresh_params
from p5jax.ppr.backbone.model import Backbone, BackboneConfig
from p5jax.ppr.backbone.pretraining import PretrainConfig, pretrain
from p5jax.ppr.backbone.sequences import SequenceConfig
from p5jax.ppr.cold.evaluation import evaluate, rank_cases
from p5jax.ppr.cold.protocol import ColdStartConfig, cold_start
from p5jax.ppr.cold.recommend import parse_profile, recommend
from p5jax.ppr.generator import (
    ProfileEmbedder,
    PromptConfig,
    PromptGenerator,
    masked_elements,
)
from p5jax.ppr.model import PromptedModel, PromptedScorer
from p5jax.ppr.profiles import ProfileConfig, fit_profiles
from p5jax.ppr.tuned import Tuned, tune
from p5jax.ppr.tuning import CaseIterator, TuneConfig, tuning_objective, validation_users
from p5jax.training.checkpoints import restore_params
from p5jax.training.freezing import split as split_params
from p5jax.training.trainer import TrainConfig

pytestmark = pytest.mark.usefixtures("xla_cache")
BACKBONE = BackboneConfig(num_items=60, emb_dim=8, num_layers=2, mlp_dim=8, max_history=12)
PROMPT = PromptConfig(length=2, hidden=6, attribute_dim=3)
SIZES = (4, 3)
TUNE = TuneConfig(steps=6, validate_every=3, batch_size=16, learning_rate=0.02)


def spread(params, seed=0):
    """Parameters of about unit size, so that every one of them matters."""
    keys = iter(jax.random.split(jax.random.key(seed), 100))
    return jax.tree.map(lambda x: 0.5 * jax.random.normal(next(keys), x.shape), params)


def model_and_params(sizes=SIZES, prompted=True, features=None):
    model = PromptedModel(BACKBONE, PROMPT, sizes, prompted)
    features = np.zeros((1, 2), np.int32) if features is None else features
    return model, spread(
        fresh_params(model, jax.random.key(0), features[:1], np.zeros((1, 3), int))
    )


def two_layers(params, x):
    hidden = np.maximum(x @ params["w1"]["kernel"] + params["w1"]["bias"], 0)
    return hidden @ params["w2"]["kernel"] + params["w2"]["bias"]


def test_prompt_and_user_vector_equal_numpy():
    model, params = model_and_params()
    p = jax.tree.map(np.array, params)
    codes, items = np.array([[0, 2], [3, 1], [1, 0]]), np.array([[0, 4, 9], [0, 0, 0], [7, 1, 60]])
    table = p["profile"]["embedding"]
    assert table.shape == (7, 3)  # a row for each code, 0 among them
    x = np.concatenate([table[codes[:, 0]], table[4 + codes[:, 1]]], axis=1)
    prompt = two_layers(p["generator"]["mlp"], x).reshape(3, 2, 2, 8)
    np.testing.assert_allclose(
        model.apply({"params": params}, x, method="make"), prompt, rtol=1e-4, atol=1e-5
    )
    backbone = Backbone(BACKBONE)
    state = backbone.apply({"params": params["backbone"]}, items, prompt, method="user_state")
    expected = np.array(state) + two_layers(p["profile_mlp"], x)
    users, states = model.apply({"params": params}, codes, items)
    np.testing.assert_allclose(users, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(states, state, rtol=1e-4, atol=1e-5)
    scorer = PromptedScorer(model, params, codes)
    items_table = p["backbone"]["item_embedding"]["embedding"][:60]
    scores = scorer(np.arange(3), items)
    np.testing.assert_allclose(scores, expected @ items_table.T, rtol=1e-4, atol=1e-4)
    candidates = np.array([[3, 5], [59, 0], [7, 7]])
    np.testing.assert_allclose(
        scorer(np.arange(3), items, candidates),
        np.take_along_axis(scores, candidates, axis=1),
        rtol=1e-5,
    )


def test_without_a_prompt_the_user_vector_is_the_backbone_s_and_the_profile_s():
    model, params = model_and_params(prompted=False)
    assert "generator" not in params
    codes, items = np.array([[1, 2], [1, 2]]), np.array([[0, 4], [0, 0]])
    users, states = model.apply({"params": params}, codes, items)
    assert np.all(np.array(states)[1] == 0)  # no history, no prompt
    p = jax.tree.map(np.array, params)
    x = np.concatenate([p["profile"]["embedding"][1], p["profile"]["embedding"][6]])
    np.testing.assert_allclose(users[1], two_layers(p["profile_mlp"], x), rtol=1e-4, atol=1e-5)


def test_vectors_are_profiles_too():
    vectors = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    model, params = model_and_params((), features=vectors)
    assert "profile" not in params
    items = np.array([[0, 4], [1, 2]])
    found = PromptedScorer(model, params, vectors)(np.array([4, 0]), items)
    x = vectors[[4, 0]]
    prompt = model.apply({"params": params}, x, method="make")
    state = Backbone(BACKBONE).apply(
        {"params": params["backbone"]}, items, prompt, method="user_state"
    )
    user = np.array(state) + two_layers(jax.tree.map(np.array, params["profile_mlp"]), x)
    table = np.array(params["backbone"]["item_embedding"]["embedding"][:60])
    np.testing.assert_allclose(found, user @ table.T, rtol=1e-4, atol=1e-4)


def test_masked_elements_are_zero_at_the_rate():
    x = np.ones((200, 50), np.float32)
    masked = np.array(masked_elements(x, 0.2, jax.random.key(0)))
    assert set(np.unique(masked)) == {0.0, 1.0}
    assert (masked == 0).mean() == pytest.approx(0.2, abs=0.02)
    np.testing.assert_array_equal(masked_elements(x, 0.0, jax.random.key(0)), x)


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
    return pretrain(world, config, tmp_path_factory.mktemp("ppr") / "backbone", cold.warm)[0]


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
    margins = np.einsum(
        "bd,bnd->bn", users, table[batch["targets"]][:, None] - table[batch["negatives"]]
    )
    each = np.log1p(np.exp(-margins.astype(np.float64))).mean(axis=1)
    assert float(loss_sum) == pytest.approx(each[:10].sum(), rel=1e-4)
    assert float(sums["weight"]) == 10


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


@pytest.mark.parametrize("mode", CHANGED)
def test_modes_train_exactly_their_parameters(backbone, cold, schema, tmp_path, mode):
    """Weight decay included: what is not the mode's keeps every bit."""
    settings = replace(TUNE, mode=mode, weight_decay=0.1)
    tuned, result = tune(backbone, cold, schema, settings, PROMPT, tmp_path / mode)
    before = jax.tree.map(np.array, tuned.initial(0))
    after = jax.tree.map(np.array, result.params)
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


def test_light_trains_under_one_percent_of_a_catalogue_of_usual_size():
    config = BackboneConfig(num_items=200_000)  # the published shares are of such catalogues
    model = PromptedModel(config, PromptConfig(attribute_dim=64), (9, 3, 22))
    shapes = jax.eval_shape(
        partial(fresh_params, model),
        jax.random.key(0),
        np.zeros((1, 3), int),
        np.zeros((1, 5), int),
    )
    trained, frozen = split_params(shapes, ("profile/*", "generator/*", "profile_mlp/*"))
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (trained, frozen)]
    assert 0 < sizes[0] / sum(sizes) < 0.01


def test_a_tuned_folder_scores_as_when_trained_and_refuses_other_backbones(
    backbone, cold, schema, tmp_path, world
):
    tuned, result = tune(backbone, cold, schema, TUNE, PROMPT, tmp_path / "light")
    loaded = Tuned.load(tmp_path / "light")
    table = evaluate(cold, {"light": loaded.scorer, "pretrain": backbone.scorer})
    assert set(table["method"].to_pylist()) >= {"light", "pretrain", "popularity"}
    best = restore_params(tmp_path / "light" / "checkpoints", jax.eval_shape(tuned.initial))
    users, items = np.array([0, 5]), np.array([[0, 0], [3, 4]])
    np.testing.assert_array_equal(
        loaded.scorer(users, items), PromptedScorer(tuned.model, best, tuned.features)(users, items)
    )
    _, resumed = tune(backbone, cold, schema, TUNE, PROMPT, tmp_path / "light")
    jax.tree.map(np.testing.assert_array_equal, resumed.params, result.params)
    with pytest.raises(UserError, match=r"tune\.mode = 'light'"):
        tune(backbone, cold, schema, replace(TUNE, mode="full"), PROMPT, tmp_path / "light")
    others = cold_start(world, replace(cold.config, seed=1))
    with pytest.raises(UserError, match="pre-trained on other users"):
        tune(backbone, others, schema, TUNE, PROMPT, tmp_path / "other")
    manifest = json.loads((tmp_path / "light" / "tuned.json").read_text())
    manifest["backbone"]["params"] = "0" * 64
    (tmp_path / "light" / "tuned.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="tuned from a backbone with parameters 000000000000"):
        Tuned.load(tmp_path / "light")


def test_stopped_tuning_goes_on_to_the_same_bits(backbone, cold, schema, tmp_path, monkeypatch):
    import p5jax.training.trainer as trainer

    def tuned(name):
        return tune(backbone, cold, schema, TUNE, PROMPT, tmp_path / name)[1]

    whole, agreed = tuned("whole"), trainer._Loop._agreed
    monkeypatch.setattr(trainer._Loop, "_agreed", lambda self, i: 15 if self.step == 4 else None)
    assert tuned("stopped").status == "interrupted"
    with pytest.raises(UserError, match="not finished"):
        Tuned.load(tmp_path / "stopped", backbone)
    monkeypatch.setattr(trainer._Loop, "_agreed", agreed)
    jax.tree.map(np.testing.assert_array_equal, tuned("stopped").params, whole.params)


def test_vector_profiles_are_kept_with_the_folder(backbone, cold, tmp_path, world):
    vectors = np.random.default_rng(0).normal(size=(world.num_users, 5)).astype(np.float32)
    tune(backbone, cold, vectors, TUNE, PROMPT, tmp_path / "vectors")
    loaded = Tuned.load(tmp_path / "vectors", backbone)
    np.testing.assert_array_equal(loaded.features, vectors)
    with pytest.raises(UserError, match="its profiles are vectors"):
        recommend(loaded, profile={"age": "3"})


def test_recommendations_for_users_and_for_profiles(backbone, cold, schema, tmp_path, world):
    tune(backbone, cold, schema, TUNE, PROMPT, tmp_path / "light")
    tuned = Tuned.load(tmp_path / "light", backbone)
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
        ({"profile": {"age": "30"}, "k": 0}, "-k 0"),
    ],
)
def test_what_a_user_mistypes_is_one_line(backbone, cold, schema, tmp_path_factory, given, message):
    folder = tmp_path_factory.getbasetemp() / "mistyped"
    tune(backbone, cold, schema, replace(TUNE, steps=1), PROMPT, folder)
    with pytest.raises(UserError, match=message) as caught:
        recommend(Tuned.load(folder, backbone), **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", [["age"], ["=3"], ["age="], ["age=3", "age=4"]])
def test_profile_words_that_are_none_are_refused(words):
    with pytest.raises(UserError, match="--profile"):
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


def test_a_prompt_without_rows_is_refused():
    with pytest.raises(UserError, match=r"PromptConfig\.length: found 0, expected 1 or more"):
        PromptConfig(length=0)


def test_a_kind_without_cases_is_one_line(cold, schema, world):
    features = schema.profiles(world).codes_UxM
    cases = cold.cases("50-shot", cold.train)
    with pytest.raises(UserError, match="found no 50-shot case of the tuning users"):
        CaseIterator(cold, cases, features, replace(TUNE, kind="50-shot"))
    with pytest.raises(UserError, match="found no 50-shot one to rank"):
        rank_cases(lambda *asked: np.zeros((1, 1)), cases, cold.num_items, "candidates")


def test_generator_s_shapes_and_start():
    generator = PromptGenerator(PromptConfig(length=3, hidden=64), 2, 5, stddev=0.5)
    x = np.random.default_rng(0).normal(size=(400, 40)).astype(np.float32)
    params = fresh_params(generator, jax.random.key(0), x)
    made = np.array(generator.apply({"params": params}, x))
    assert made.shape == (400, 3, 2, 5)
    assert 0.3 < made.std() < 0.8
    embedder = ProfileEmbedder((3, 2), 4)
    table = fresh_params(embedder, jax.random.key(0), np.zeros((1, 2), int))["embedding"]
    assert table.shape == (5, 4)
