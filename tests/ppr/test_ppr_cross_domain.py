"""Cross-domain profiles: the right user's state, nothing of the target domain, real signal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cold_world import dataset_of
from sklearn.linear_model import Ridge

from p5jax.core.errors import UserError
from p5jax.ppr.cold.cross_domain import DomainPair, VectorProfiles, user_states
from p5jax.ppr.cold.evaluation import evaluate_cold
from p5jax.ppr.cold.leaks import find_cold_leaks
from p5jax.ppr.cold.protocol import ColdStartConfig
from p5jax.ppr.cold.results import summarise

SOURCE_ITEMS, TARGET_ITEMS = 40, 40
SHARED, ALONE = 120, 80


def domain(users, items, tastes, prefix, seed):
    """Users who take eight items, all from their taste's half of the catalogue."""
    rng = np.random.default_rng(seed)
    half = items // 2
    sequences = [(half * taste + rng.permutation(half)[:8]).tolist() for taste in tastes]
    dataset = dataset_of(sequences, items, keys=users)
    dataset.item_keys = [f"{prefix}{item}" for item in range(items)]
    return dataset


def tasteful_pair():
    """Two domains in which a user's source items tell the taste of the target items.

    Both have users of their own; shared ones stand in other orders.
    """
    rng = np.random.default_rng(0)
    keys = [f"person{n}" for n in range(SHARED)]
    taste = dict(zip(keys, rng.integers(2, size=SHARED), strict=True))
    datasets = []
    for name, items, seed in (("a", SOURCE_ITEMS, 1), ("b", TARGET_ITEMS, 2)):
        own = {f"{name}-only{n}": int(rng.integers(2)) for n in range(ALONE)}
        everybody = rng.permutation([*keys, *own]).tolist()
        tastes = [(taste | own)[key] for key in everybody]
        datasets.append(domain(everybody, items, tastes, name, seed))
    return DomainPair.of(*datasets), taste


def counting(items):
    """A user state that can be checked: how often each source item stands in the history."""
    states = np.zeros((len(items), SOURCE_ITEMS + 1), np.float32)
    np.add.at(states, (np.arange(len(items))[:, None], items), 1)
    return states[:, 1:]


def test_shared_users_are_paired_by_key():
    pair, taste = tasteful_pair()
    assert len(pair.source_users) == SHARED
    found = [pair.target.user_keys[user] for user in pair.target_users]
    assert [pair.source.user_keys[user] for user in pair.source_users] == found
    assert set(found) == set(taste)


def test_a_profile_is_the_state_of_the_users_own_source_history():
    pair, _ = tasteful_pair()
    profiles = pair.profiles(counting, max_history=5, batch_size=32)
    assert profiles.vectors.shape == (SHARED + ALONE, SOURCE_ITEMS)
    assert profiles.present.sum() == SHARED
    for user, key in enumerate(pair.target.user_keys):
        expected = np.zeros(SOURCE_ITEMS)
        if key in pair.source.user_keys:
            expected[pair.source.sequence(pair.source.user_index(key))[-5:]] = 1
        np.testing.assert_array_equal(profiles.vectors[user], expected)
        assert profiles.present[user] == (key in pair.source.user_keys)


def test_the_encoder_sees_one_shape():
    pair, _ = tasteful_pair()
    shapes = set()

    def state(items):
        shapes.add(items.shape)
        return counting(items)

    small = pair.profiles(state, max_history=12, batch_size=50)
    assert shapes == {(50, 12)}
    large = pair.profiles(counting, max_history=12, batch_size=500)
    np.testing.assert_array_equal(small.vectors, large.vectors)


def test_domains_with_a_common_item_are_refused():
    """The source's backbone was trained on it, for the target's test users too."""
    source = dataset_of([[0, 1, 2, 3], [2, 3, 0, 1]], 4)
    target = dataset_of([[0, 1, 2], [2, 1, 0]], 3)
    target.item_keys = ["t0", "t1", "i2"]
    with pytest.raises(UserError, match=r"found 1 items in both .e.g. 'i2'."):
        DomainPair.of(source, target)


def test_cold_users_are_shared_ones_and_nothing_leaks():
    pair, taste = tasteful_pair()
    split = pair.cold_start(ColdStartConfig(first=5, negatives=20))
    assert len(split.cold) == round(0.2 * SHARED)
    assert {pair.target.user_keys[user] for user in split.cold} <= set(taste)
    assert len(split.warm) == SHARED + ALONE - len(split.cold)
    tuning, testing = split.cases("joint", split.train), split.cases("joint")
    assert find_cold_leaks(split, [tuning], [testing]) == []


def test_standardised_over_training_users_alone():
    rng = np.random.default_rng(0)
    vectors = rng.normal(3, 5, size=(20, 4)).astype(np.float32)
    vectors[:, 3] = 7
    present = np.arange(20) % 4 > 0
    vectors[~present] = 0
    profiles = VectorProfiles(vectors, present)
    users = np.arange(12)
    scaled = profiles.standardised(users)
    fitting = users[present[users]]
    np.testing.assert_allclose(scaled.vectors[fitting].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.vectors[fitting].std(axis=0), [1, 1, 1, 0], atol=1e-6)
    assert not scaled.vectors[~present].any()
    changed = vectors.copy()
    changed[12:] *= 100
    other = VectorProfiles(changed, present).standardised(users)
    np.testing.assert_array_equal(other.vectors[:12], scaled.vectors[:12])
    with pytest.raises(UserError, match="found 0 training users with a history in the source"):
        profiles.standardised(np.array([0, 4]))


def test_datasets_without_shared_users_are_refused():
    one = dataset_of([[0, 1, 2]], 5, keys=["ada"])
    two = dataset_of([[0, 1, 2]], 5, keys=["bob"])
    with pytest.raises(UserError, match=r"found no user key in both .e.g. 'ada' and 'bob'."):
        DomainPair.of(one, two)


def test_the_source_domain_tells_the_taste_in_the_target_domain():
    """Zero-shot, a linear model of the profiles ranks far better than popularity; with the
    profiles of other users it does not."""
    pair, _ = tasteful_pair()
    config = ColdStartConfig(share=0.5, first=3, train_share=0.5, negatives=20)
    split = pair.cold_start(config)
    profiles = pair.profiles(counting, max_history=20).standardised(split.training_users)
    fitting = split.training_users[profiles.present[split.training_users]]
    bought = np.zeros((len(fitting), TARGET_ITEMS))
    for row, user in enumerate(fitting.tolist()):
        bought[row, split.sequence(user)] = 1

    def scorer(vectors):
        scores = Ridge(10.0).fit(vectors[fitting], bought).predict(vectors)

        def score(users, items, candidates):
            found = scores[users]
            return found if candidates is None else np.take_along_axis(found, candidates, axis=1)

        return score

    mixed = np.random.default_rng(0).permutation(profiles.vectors)
    methods = {"profile": scorer(profiles.vectors), "another's": scorer(mixed)}
    table = evaluate_cold(split, methods, kinds=["zero-shot"])
    rows = {(row.method, row.ranking): row for row in summarise(table, "popularity")}
    for ranking in ("candidates", "catalogue"):
        assert rows["profile", ranking].differences["AUC"].low > 0.1
        assert rows["another's", ranking].differences["AUC"].high < 0.1


def test_a_backbone_gives_profiles():
    """The untrained SASRec's states are those of one user at a time."""
    import jax

    from p5jax.ppr.backbone.model import Backbone, BackboneConfig, backbone_params

    pair, _ = tasteful_pair()
    model = Backbone(BackboneConfig(SOURCE_ITEMS, emb_dim=16, mlp_dim=16, max_history=8))
    params = backbone_params(model, jax.random.key(0))

    states = user_states(model, params)
    profiles = pair.profiles(states, max_history=8)
    user = int(pair.target_users[7])
    sequence = pair.source.sequence(int(pair.source_users[7]))
    alone = states((sequence + 1)[None])
    np.testing.assert_allclose(profiles.vectors[user], alone[0], rtol=1e-4, atol=1e-4)
    assert profiles.vectors.shape[1] == 16


@pytest.mark.check
def test_a_prompt_from_the_source_domain_beats_one_from_another_user(tmp_path):
    """Backbones of both domains, and `full` tuning on the shared cold users' states (PPR's
    setting): zero-shot, above popularity and above the same with the profiles mixed up."""
    from p5jax.ppr.backbone.model import BackboneConfig
    from p5jax.ppr.backbone.pretraining import TRAINING, PretrainConfig, pretrain
    from p5jax.ppr.generator import PromptConfig
    from p5jax.ppr.tuned import tune
    from p5jax.ppr.tuning import TuneConfig

    pair, _ = tasteful_pair()
    sizes = BackboneConfig(0, emb_dim=16, mlp_dim=16, max_history=8, dropout_rate=0.0)
    config = PretrainConfig(sizes, training=replace(TRAINING, steps=150), validation_users=0)
    source = pretrain(pair.source, config, tmp_path / "source")
    split = pair.cold_start(ColdStartConfig(share=0.6, first=3, negatives=20))
    target = pretrain(pair.target, config, tmp_path / "target", users=split.warm)
    profiles = pair.profiles(user_states(source.model, source.params), max_history=8)
    right = profiles.standardised(split.training_users).vectors
    vectors = {"right": right, "mixed": np.random.default_rng(0).permutation(right)}
    tuning = TuneConfig(mode="full", steps=300, learning_rate=0.01, kind="zero-shot")
    scorers = {
        name: tune(target, split, profile, tuning, PromptConfig(), tmp_path / name).scorer
        for name, profile in vectors.items()
    }
    table = evaluate_cold(split, scorers, kinds=["zero-shot"], rankings=["catalogue"])
    for reference in ("popularity", "mixed"):
        rows = {row.method: row for row in summarise(table, reference)}
        assert rows["right"].differences["AUC"].low > 0
