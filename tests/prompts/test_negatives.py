"""Hard negatives against the probabilities of the walk that samples them."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import pytest
from family_world import AMAZON, Thirds, write_world
from scipy import stats

from p5jax.core.errors import UserError
from p5jax.prompts.families import FamilyConfig, example_rng, make_families
from p5jax.prompts.negatives import Neighbours


@pytest.fixture(scope="module")
def gaps(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("negatives") / "dataset")


def walked(dataset, user):
    """The probability that a walk from a user ends at each item."""
    owned = [dataset.sequence(u)[:-2].tolist() for u in range(dataset.num_users)]
    found = np.zeros(dataset.num_items)
    for item in owned[user]:
        owners = [u for u in range(dataset.num_users) if item in owned[u]]
        for owner in owners:
            for other in owned[owner]:
                found[other] += 1 / len(owned[user]) / len(owners) / len(owned[owner])
    return found


def test_a_hard_negative_is_where_a_walk_over_training_interactions_ends(gaps):
    near, rng = Neighbours(gaps), np.random.default_rng(0)
    user = int(np.argsort(np.diff(gaps.offsets))[-3])
    training = gaps.sequence(user)[:-2]
    expected = walked(gaps, user)
    expected[training] = 0
    expected /= expected.sum()
    draws = Counter()
    for _ in range(3000):
        draws.update(near.sample(rng, training, set(training.tolist()), 1))
    seen = np.array([draws[item] for item in range(gaps.num_items)])
    possible = expected > 0
    assert seen[~possible].sum() == 0
    assert stats.chisquare(seen[possible], expected[possible] * seen.sum()).pvalue > 1e-4


def test_hard_negatives_stand_anywhere_in_training_lists_and_in_no_evaluation(gaps):
    easy = make_families(gaps, AMAZON, Thirds(), FamilyConfig(num_candidates=30))["direct"]
    config = FamilyConfig(num_candidates=30, hard_negatives=1.0)
    hard = make_families(gaps, AMAZON, Thirds(), config)["direct"]
    near, places = 0, []
    for index in range(300):
        example = hard.example("train", index, example_rng(0, 0, "direct", index), "5-5")
        items, training = example.candidates.tolist(), gaps.sequence(example.user)[:-2].tolist()
        assert len(items) == len(set(items)) == 30
        assert set(items) & set(training) == {example.item}
        likely = [n for n, p in enumerate(walked(gaps, example.user)[items]) if p > 0]
        near += len(likely) - 1
        places += [n for n in likely if items[n] != example.item]
    assert near / 300 > 5
    assert abs(np.mean(places) - 14.5) < 1
    for index in range(hard.size("test")):
        for id in ("5-5", "5-1"):
            ours, theirs = (f.example("test", index, prompt_id=id) for f in (hard, easy))
            assert ours.inputs == theirs.inputs
            assert ours.candidates.tolist() == theirs.candidates.tolist()


def test_hard_negatives_do_not_depend_on_the_held_out_items(gaps):
    rng, changed = np.random.default_rng(5), copy.copy(gaps)
    changed.sequence_items = gaps.sequence_items.copy()
    for user in range(gaps.num_users):
        others = np.setdiff1d(np.arange(gaps.num_items), gaps.sequence(user)[:-2])
        end = gaps.offsets[user + 1]
        changed.sequence_items[end - 2 : end] = rng.choice(others, 2, replace=False)
    config = FamilyConfig(num_candidates=20, hard_negatives=0.5)
    ours, theirs = (
        make_families(d, AMAZON, Thirds(), config, ("direct",))["direct"] for d in (gaps, changed)
    )
    for index in range(0, ours.size("train"), 7):
        a, b = (f.example("train", index, example_rng(0, 0, "d", index)) for f in (ours, theirs))
        assert (a.inputs, a.targets) == (b.inputs, b.targets)


def test_a_share_beyond_one_is_refused():
    with pytest.raises(UserError, match="hard_negatives"):
        FamilyConfig(hard_negatives=1.5)
