"""Profile prediction: the task by hand, the metrics against scikit-learn, and what is learned."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from cold_world import dataset_of
from flax.traverse_util import flatten_dict
from sklearn.metrics import accuracy_score, f1_score

from p5jax.core.errors import UserError
from p5jax.ppr.cold.protocol import ColdStartConfig, cold_start
from p5jax.ppr.prediction.task import (
    format_prediction,
    prediction_metrics,
    prediction_table,
    prediction_task,
)
from p5jax.ppr.profiles import ProfileConfig, fit_profiles

USERS, ITEMS = 150, 40


def people(seed=0):
    """Users whose taste decides their items; their colour decides nothing, and some hide it."""
    rng = np.random.default_rng(seed)
    tastes = rng.integers(2, size=USERS)
    half = ITEMS // 2
    sequences = [(half * taste + rng.permutation(half)[:8]).tolist() for taste in tastes]
    words = np.array(["calm", "wild"])[tastes].tolist()
    attributes = {
        "taste": [None if n % 10 == 0 else word for n, word in enumerate(words)],
        "colour": rng.choice(["red", "green", "blue"], size=USERS).tolist(),
    }
    return dataset_of(sequences, ITEMS, attributes)


def task_of(dataset, attribute="taste", **settings):
    config = ColdStartConfig(share=0.4, first=6, train_share=0.5, negatives=20, **settings)
    split = cold_start(dataset, config)
    schema = fit_profiles(dataset, split.training_users, ProfileConfig())
    return split, prediction_task(split, schema.profiles(dataset), attribute)


def test_the_task_by_hand():
    dataset = people()
    split, task = task_of(dataset)
    assert (task.attribute, task.classes) == ("taste", 2)
    assert task.others.names == ("colour",)
    assert task.items_UxS.shape == (USERS, 6)
    for user in range(USERS):  # warm users too have no more than what a cold one has
        np.testing.assert_array_equal(task.items_UxS[user], dataset.sequence(user)[:6] + 1)
    words = dataset.users["taste"].to_pylist()
    expected = [{None: -1, "calm": 0, "wild": 1}[word] for word in words]
    np.testing.assert_array_equal(task.labels, expected)
    known = {user for user, word in enumerate(words) if word}
    assert set(task.train.tolist()) == set(split.training_users.tolist()) & known
    assert set(task.test.tolist()) == set(split.test.tolist()) & known
    counts = np.bincount(np.array(expected)[task.train])
    assert task.majority == counts.argmax()


def test_the_target_is_in_nothing_that_the_model_reads():
    dataset = people()
    _, task = task_of(dataset)
    hidden = people()
    column = hidden.users.column_names.index("taste")
    swapped = [{"calm": "wild", "wild": "calm"}.get(w) for w in hidden.users["taste"].to_pylist()]
    hidden.users = hidden.users.set_column(column, "taste", pa.array(swapped))
    _, other = task_of(hidden)
    np.testing.assert_array_equal(other.others.codes_UxM, task.others.codes_UxM)
    np.testing.assert_array_equal(other.items_UxS, task.items_UxS)
    known = task.labels >= 0
    np.testing.assert_array_equal(other.labels[known], 1 - task.labels[known])


def test_what_cannot_be_predicted_is_one_line():
    dataset = people()
    with pytest.raises(UserError, match="'tast': found taste, colour; did you mean taste"):
        task_of(dataset, "tast")
    alone = dataset_of([[0, 1, 2, 3]] * 20, 30, {"sex": ["f", "m"] * 10})
    with pytest.raises(UserError, match="found no attribute but 'sex', expected another"):
        task_of(alone, "sex")
    split, _ = task_of(dataset)
    words = dataset.users["taste"].to_pylist()
    told = [None if user in split.test else word for user, word in enumerate(words)]
    column = dataset.users.column_names.index("taste")
    dataset.users = dataset.users.set_column(column, "taste", pa.array(told))
    with pytest.raises(UserError, match="found no test user whose 'taste' is known"):
        task_of(dataset)


def test_metrics_agree_with_scikit_learn_and_are_paired():
    rng = np.random.default_rng(0)
    label = rng.choice(3, size=200, p=[0.6, 0.3, 0.1])
    predicted = np.where(rng.random(200) < 0.7, label, rng.integers(4, size=200))
    table = pa.table(
        {
            "seed": np.zeros(200, int),
            "user": np.arange(200),
            "label": label,
            "predicted": predicted,
            "majority": np.zeros(200, int),
        }
    )
    found = prediction_metrics(table)
    for kind, column in (("predicted", predicted), ("majority", np.zeros(200, int))):
        accuracy, low, high = found[kind]["accuracy"]
        assert accuracy == pytest.approx(accuracy_score(label, column))
        half = 1.96 * (accuracy * (1 - accuracy) / 200) ** 0.5
        assert (low, high) == pytest.approx((accuracy - half, accuracy + half), abs=0.3 * half)
        macro, low, high = found[kind]["macro-F1"]
        resampled = []
        for seed in range(200):
            rows = np.random.default_rng(seed).integers(200, size=200)
            each = {"labels": range(3), "average": "macro", "zero_division": 0}
            resampled.append(f1_score(label[rows], column[rows], **each))
        ends = np.quantile(resampled, (0.025, 0.975))
        assert (low, high) == pytest.approx(ends, abs=0.25 * (ends[1] - ends[0]))
        assert macro == pytest.approx(
            np.mean([f1_score(label == c, column == c, zero_division=0) for c in range(3)])
        )
    gain, low, high = found["difference"]["accuracy"]
    paired = (predicted == label) * 1.0 - (label == 0)
    error = paired.std(ddof=1) / 200**0.5
    assert gain == pytest.approx(paired.mean())
    expected = gain - 1.96 * error, gain + 1.96 * error
    assert (low, high) == pytest.approx(expected, abs=0.3 * error)
    # the same users again tell no more
    again = prediction_metrics(pa.concat_tables([table, table]))
    for kind, metrics in found.items():
        for name, values in metrics.items():
            assert again[kind][name] == pytest.approx(values)


def test_a_user_of_two_seeds_is_one_user():
    """Right in one seed and wrong in the other, every user is half right: nothing varies."""
    seeds = [
        {"user": np.arange(50), "label": label, "predicted": np.zeros(50, int)}
        for label in (np.zeros(50, int), np.ones(50, int))
    ]
    tables = [
        pa.table({"seed": np.full(50, n), **columns, "majority": np.ones(50, int)})
        for n, columns in enumerate(seeds)
    ]
    found = prediction_metrics(pa.concat_tables(tables))
    assert found["predicted"]["accuracy"] == (0.5, 0.5, 0.5)
    assert found["difference"]["accuracy"] == (0, 0, 0)


def test_the_majority_is_that_of_training_users():
    _, task = task_of(people())
    labels = np.full(USERS, 1)
    labels[task.train] = 0
    assert replace(task, labels=labels).majority == 0


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A backbone hardly trained, on the warm users of `people`, in a dataset folder."""
    from p5jax.ppr.backbone.model import BackboneConfig
    from p5jax.ppr.backbone.pretraining import TRAINING, PretrainConfig, pretrain

    dataset = people()
    folder = tmp_path_factory.mktemp("prediction")
    split, task = task_of(dataset)
    config = PretrainConfig(
        BackboneConfig(0, emb_dim=16, mlp_dim=16, max_history=8, dropout_rate=0.0),
        training=replace(TRAINING, steps=1),
        validation_users=0,
    )
    run = pretrain(dataset, config, folder / "run", users=split.warm)
    return run, split, task, folder


def train_classifier(backbone, name, **settings):
    from p5jax.ppr.generator import PromptConfig
    from p5jax.ppr.prediction.classifier import PredictionConfig, predict_attribute

    run, split, task, folder = backbone
    config = PredictionConfig(steps=60, validate_every=20, learning_rate=0.02, **settings)
    return predict_attribute(run, split, task, folder / name, config, PromptConfig())


@pytest.fixture(scope="module")
def light(backbone):
    """The test users' classes by the mode light."""
    return train_classifier(backbone, "light")


@pytest.mark.check
def test_a_taste_that_behaviour_shows_is_learned(backbone, light):
    _, _, task, _ = backbone
    table = prediction_table(task, light)
    assert table["user"].to_pylist() == task.test.tolist()
    found = prediction_metrics(table)
    assert found["predicted"]["accuracy"][0] > 0.75
    assert found["difference"]["accuracy"][1] > 0
    text = format_prediction("taste", table)
    assert text.startswith(f"taste: 2 classes among {len(task.test)} test users\n  predicted   acc")


def test_the_same_call_finds_it_trained_and_other_settings_are_refused(backbone, light):
    np.testing.assert_array_equal(train_classifier(backbone, "light"), light)
    manifest = json.loads((backbone[3] / "light" / "prediction.json").read_text())
    assert manifest["attribute"] == "taste"
    assert manifest["prediction"]["learning_rate"] == 0.02
    with pytest.raises(UserError, match=r"found prediction\.batch_size = 64, expected 32"):
        train_classifier(backbone, "light", batch_size=32)
    run, split, task, folder = backbone
    other = run, split, replace(task, attribute="town"), folder
    with pytest.raises(UserError, match=r"found attribute = 'taste', expected 'town'"):
        train_classifier(other, "light")
    labels = np.where(np.arange(USERS) == task.train[0], 1 - task.labels, task.labels)
    with pytest.raises(UserError, match="found task = "):
        train_classifier((run, split, replace(task, labels=labels), folder), "light")


def test_a_folder_of_other_things_is_refused_and_left_as_it_is(backbone):
    folder = backbone[3]
    (folder / "notes").mkdir()
    (folder / "notes" / "thesis.txt").write_text("mine")
    (folder / "file").write_text("mine")
    for name in ("notes", "file", "run"):
        before = sorted(folder.rglob("*"))
        with pytest.raises(
            UserError, match="exists and is not a profile prediction; choose"
        ) as caught:
            train_classifier(backbone, name)
        assert str(caught.value).startswith(f"{folder / name}: ")
        assert "\n" not in str(caught.value)
        assert sorted(folder.rglob("*")) == before


def test_a_backbone_that_has_seen_cold_users_is_refused(backbone):
    from p5jax.ppr.generator import PromptConfig
    from p5jax.ppr.prediction.classifier import PredictionConfig, predict_attribute

    run, split, task, folder = backbone
    other = replace(split, warm=split.training_users)
    with pytest.raises(UserError, match="pre-trained on other users than the warm ones"):
        predict_attribute(run, other, task, folder / "x", PredictionConfig(), PromptConfig())
    assert not (folder / "x").exists()


def test_only_what_a_mode_names_is_trained(backbone, light):
    from p5jax.training.checkpoints import restore_params

    run, _, _, folder = backbone
    params = restore_params(folder / "light" / "checkpoints")
    frozen, given = (flatten_dict(tree) for tree in (params["prompted"]["backbone"], run.params))
    assert frozen.keys() == given.keys()
    for name, leaf in frozen.items():
        np.testing.assert_array_equal(leaf, given[name])
    assert params["head"]["kernel"].shape == (16, 2)
    assert np.abs(params["head"]["bias"]).max() > 0  # it started at 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "heavy"}, "found 'heavy', expected light, full or finetune"),
        ({"batch_size": 0}, "PredictionConfig.batch_size: found 0"),
        ({"seed": -1}, r"PredictionConfig\.seed: found -1, expected 0 to 4294967295"),
        (
            {"validation_share": 0.0},
            "validation_share: found 0.0, expected more than 0 and less than 1",
        ),
    ],
)
def test_bad_settings(settings, message):
    from p5jax.ppr.prediction.classifier import PredictionConfig

    with pytest.raises(UserError, match=message):
        PredictionConfig(**settings)
