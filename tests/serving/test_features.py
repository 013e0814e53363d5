"""Explanations that name a feature: the one asked for, or the one that training names most."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from small_model import RUN_MODEL

from p5jax.core.errors import UserError
from p5jax.data.dataset import TRAIN, Dataset
from p5jax.inference.decoding import beam_search
from p5jax.models.t5 import init_params
from p5jax.prompts.families import FamilyConfig
from p5jax.runs.run import Run, RunConfig
from p5jax.serving.features import Features
from p5jax.serving.recommender import ANSWER_BEGINS, EXPLAINED, Recommender


def frequent(dataset: Dataset, item: int) -> str:
    """Row by row: the feature of most of the item's training reviews, the first by alphabet."""
    rows = [r for r in dataset.reviews.to_pylist() if r["split"] == TRAIN and r["feature"]]
    own = [r["feature"] for r in rows if r["item"] == item] or [r["feature"] for r in rows]
    counts = Counter(own)
    return sorted(counts, key=lambda name: (-counts[name], name))[0]


@pytest.fixture(scope="module")
def recommender(world, tmp_path_factory) -> Recommender:
    folder: Path = tmp_path_factory.mktemp("named")
    config = RunConfig(str(world.path), str(folder / "run"), prompts=("2-3", "3-1", "3-8", "E-1"))
    run = Run.create(config, FamilyConfig(max_source=64), RUN_MODEL)
    rng = np.random.default_rng(0)  # of a model that says something, not the same to every prompt
    shapes = init_params(run.model, jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), shapes)
    return Recommender(run.with_params(params))


def test_the_usual_feature_is_the_most_frequent_of_training(world):
    features = Features(world)
    assert [features.of(item) for item in range(world.num_items)] == [
        frequent(world, item) for item in range(world.num_items)
    ]
    assert len({frequent(world, item) for item in range(world.num_items)}) > 1


def test_the_decoder_is_told_the_feature(recommender, world):
    run, user, said = recommender.run, world.user_keys[0], set()
    for item, feature in ((0, None), (0, "tin"), (5, None)):
        named = feature or frequent(world, item)
        about = run.families["explanation"].source.fields.of(0, item)["iid"]
        inputs = f"What is said of {named} in {about} ?"
        source = np.zeros((1, 32), np.int32)
        tokens = recommender.tokens(inputs)
        source[0, : len(tokens)] = tokens
        begun = run.vocabulary.encode(f"{named} :")
        given = np.array([begun], np.int32)
        model = (run.model, run.params)
        best, _ = beam_search(*model, source, 64, 4, given=given, no_repeat=EXPLAINED)
        expected = run.vocabulary.decode(np.asarray(best)[0, 0, len(begun) :].tolist())
        key = world.item_keys[item]
        assert recommender.explain(user, key, prompt="E-1", feature=feature) == expected
        if feature:
            assert recommender.explain(user, key, feature=feature) == expected
        said.add(expected)
    assert len(said) > 1


def test_a_titled_item_is_explained_by_a_prompt_that_the_run_has(world, tmp_path):
    assert world.titles[0]
    config = RunConfig(str(world.path), str(tmp_path / "run"), prompts=("2-3", "E-1"))
    run = Run.create(config, FamilyConfig(max_source=64), RUN_MODEL)
    recommender = Recommender(run.with_params(init_params(run.model, jax.random.key(0))))
    user, item = world.user_keys[0], world.item_keys[0]
    usual = recommender.explain(user, item)
    assert usual == recommender.explain(user, item, prompt="E-1", feature=frequent(world, 0))


def test_what_cannot_be_named_is_refused(recommender, world):
    user, item = world.user_keys[0], world.item_keys[0]
    with pytest.raises(UserError, match="feature: found 'tin', but prompt 3-1 names none"):
        recommender.explain(user, item, prompt="3-1", feature="tin")
    with pytest.raises(UserError, match="feature: found ' ', expected a word"):
        recommender.explain(user, item, feature=" ")
    many = "tin " * ANSWER_BEGINS
    with pytest.raises(UserError, match=f"expected at most {ANSWER_BEGINS}"):
        recommender.explain(user, item, feature=many)
