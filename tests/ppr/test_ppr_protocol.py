"""The cold-start protocol: cases by hand, no leak over random logs, and checks that notice one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cold_world import dataset_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from p5jax.core.errors import UserError
from p5jax.ppr.cold.leaks import find_cold_leaks
from p5jax.ppr.cold.protocol import Cases, ColdStartConfig, cold_start

ITEMS = 40


def log(seed: int, users: int = 30, shortest: int = 3, longest: int = 15):
    """Random sequences without repeats."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, size=users)
    return dataset_of([rng.permutation(ITEMS)[:n].tolist() for n in lengths], ITEMS)


def test_cases_by_hand():
    # User u has items 10u, 10u + 1, …; all but one of the two cold users' events are cropped.
    dataset = dataset_of([[10 * u + n for n in range(6)] for u in range(4)], 40)
    config = ColdStartConfig(share=0.5, first=4, train_share=0.5, negatives=5, k_shots=(1, 3, 4))
    split = cold_start(dataset, config)
    assert (len(split.warm), len(split.train), len(split.test)) == (2, 1, 1)
    u = int(split.test[0])
    b = 10 * u
    assert split.sequence(u).tolist() == [b, b + 1, b + 2, b + 3]
    assert split.sequence(int(split.warm[0])).tolist() == [10 * split.warm[0] + n for n in range(6)]
    assert split.longest == 3
    assert split.kinds == ("zero-shot", "few-shot", "joint", "1-shot", "3-shot")  # no 4-shot
    zero, few, joint = (split.cases(kind) for kind in ("zero-shot", "few-shot", "joint"))
    assert zero.items_NxS.tolist() == [[0, 0, 0]]
    assert zero.targets.tolist() == [b]
    assert few.items_NxS.tolist() == [[0, 0, b + 1], [0, b + 1, b + 2], [b + 1, b + 2, b + 3]]
    assert few.targets.tolist() == [b + 1, b + 2, b + 3]
    assert few.lengths.tolist() == [1, 2, 3]
    assert joint.targets.tolist() == [b, b + 1, b + 2, b + 3]
    assert (joint.users == u).all()
    one, three = split.cases("1-shot"), split.cases("3-shot")
    assert (one.items_NxS.tolist(), one.targets.tolist()) == ([[0, 0, b + 1]], [b + 1])
    assert (three.items_NxS.tolist(), three.targets.tolist()) == (
        few.items_NxS[2:].tolist(),
        [b + 3],
    )
    assert len(split.cases("4-shot")) == 0
    # the same of the users that tune
    tuning = split.cases("joint", split.train)
    assert tuning.targets.tolist() == [10 * split.train[0] + n for n in range(4)]
    # what training may count: the warm users' six events and the tuning user's first four
    expected = np.zeros(40, int)
    for user in split.warm:
        expected[10 * user : 10 * user + 6] = 1
    expected[10 * split.train[0] : 10 * split.train[0] + 4] = 1
    np.testing.assert_array_equal(split.counts(), expected)
    early = np.zeros(40, int)
    for user in split.training_users:
        early[10 * user : 10 * user + 2] = 1
    np.testing.assert_array_equal(split.counts(first=2), early)


def test_users_with_few_events_are_cold_and_others_are_not():
    dataset = log(0, users=60)
    events = np.diff(dataset.offsets)
    split = cold_start(dataset, ColdStartConfig(kind="few_events", threshold=7, negatives=20))
    np.testing.assert_array_equal(split.cold, np.flatnonzero(events < 7))
    np.testing.assert_array_equal(split.warm, np.flatnonzero(events >= 7))
    assert len(split.train) == round(0.8 * len(split.cold))
    for user in range(dataset.num_users):
        np.testing.assert_array_equal(split.sequence(user), dataset.sequence(user))
    assert len(split.cases("joint")) == events[split.test].sum()


def test_shares_of_held_out_users():
    dataset = log(0, users=100)
    split = cold_start(dataset, ColdStartConfig(negatives=20, seed=3))
    assert (len(split.warm), len(split.train), len(split.test)) == (80, 16, 4)
    other = cold_start(dataset, ColdStartConfig(negatives=20, seed=4))
    assert set(split.test.tolist()) != set(other.test.tolist())
    # of some users alone, where others have nothing to be prompted by
    some = np.arange(40, 80)
    split = cold_start(dataset, ColdStartConfig(negatives=20), among=some)
    assert len(split.cold) == 8
    assert set(split.cold.tolist()) <= set(some.tolist())
    assert len(split.warm) == 92


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["held_out", "few_events"]),
    first=st.integers(1, 16),
    threshold=st.integers(6, 12),
    negatives=st.integers(1, 20),
)
def test_no_event_of_a_test_user_is_in_training(seed, kind, first, threshold, negatives):
    """Brute force over a random log, in sets of (user, item)."""
    dataset = log(seed)
    assume(5 <= (np.diff(dataset.offsets) < threshold).sum() < dataset.num_users)
    config = ColdStartConfig(
        kind, first=first, threshold=threshold, negatives=negatives, seed=seed, k_shots=(1, 2)
    )
    split = cold_start(dataset, config)
    groups = [set(group.tolist()) for group in (split.warm, split.train, split.test)]
    assert sum(map(len, groups)) == len(set.union(*groups)) == dataset.num_users
    whole = {u: dataset.sequence(u).tolist() for u in range(dataset.num_users)}
    pretraining = {(u, i) for u in split.warm.tolist() for i in split.sequence(u).tolist()}
    tuned = [split.cases(kind, split.train) for kind in split.kinds]
    tuning = {
        (int(u), int(i)) for cases in tuned for u, i in zip(cases.users, cases.targets, strict=True)
    }
    tuning |= {
        (int(u), int(i) - 1)
        for cases in tuned
        for u, known in zip(cases.users, cases.items_NxS, strict=True)
        for i in known[known > 0]
    }
    held = {(u, i) for u in groups[2] for i in whole[u]}
    assert not held & (pretraining | tuning)
    most = first if kind == "held_out" else threshold - 1
    assert {u for u, _ in tuning} == groups[1]
    assert max(len([i for v, i in tuning if v == u]) for u in groups[1]) <= most
    tested = [split.cases(kind) for kind in split.kinds]
    for cases in tested + tuned:
        columns = cases.users.tolist(), cases.items_NxS, cases.targets, cases.candidates
        for u, known, target, listed in zip(*columns, strict=True):
            place = whole[u].index(target)
            assert place < most
            assert known.tolist() == [0] * (split.longest - place) + [
                i + 1 for i in whole[u][:place]
            ]
            assert listed[0] == target
            assert len(listed) == len(set(listed.tolist())) == 1 + negatives
            assert not set(listed[1:].tolist()) & set(whole[u])
            assert 0 <= listed.min() <= listed.max() < ITEMS
    assert find_cold_leaks(split, tuned, tested) == []


def test_negatives_are_frozen_by_the_seed_whoever_asks():
    dataset = log(1)
    config = ColdStartConfig(negatives=20, seed=5)
    split = cold_start(dataset, config)
    everything = split.cases("joint")
    again = cold_start(dataset, config).cases("joint")
    np.testing.assert_array_equal(again.candidates, everything.candidates)
    for kind in ("zero-shot", "few-shot", "1-shot"):
        for users in (split.test, split.test[-1:]):
            cases = split.cases(kind, users)
            for row in range(len(cases)):
                same = (everything.users == cases.users[row]) & (
                    everything.lengths == cases.lengths[row]
                )
                (expected,) = everything.candidates[same]
                np.testing.assert_array_equal(cases.candidates[row], expected)
    own = everything.candidates[everything.users == split.test[0], 1:]
    assert len(own) > 1
    assert len({tuple(sorted(row)) for row in own.tolist()}) == len(own)  # drawn for each case
    # more usable events ask more cases, and leave those of before
    more = cold_start(dataset, dataclasses.replace(config, first=15)).cases("joint")
    early = more.lengths < 10
    np.testing.assert_array_equal(more.candidates[early], everything.candidates)
    other = cold_start(dataset, dataclasses.replace(config, seed=6)).cases("joint", split.test)
    assert (other.candidates[:, 1:] != everything.candidates[:, 1:]).mean() > 0.5


def test_negatives_are_uniform_over_what_the_user_has_not():
    sequences = [[u % 10, 10 + u % 10, 20 + u % 10] for u in range(1500)]
    split = cold_start(dataset_of(sequences, 30), ColdStartConfig(negatives=5, share=0.9))
    cases = split.cases("joint", split.cold)
    drawn = (cases.candidates[:, 1:] - cases.users[:, None]) % 10  # 0 would be the user's own
    counts = np.bincount(drawn.ravel(), minlength=10)
    assert counts[0] == 0
    expected = drawn.size / 9
    assert np.abs(counts[1:] - expected).max() < 4.5 * (expected * 8 / 9) ** 0.5


def damaged(split, **columns):
    return dataclasses.replace(split, **columns)


def test_leak_checks_notice_each_kind_of_leak():
    dataset = log(2)
    config = ColdStartConfig(negatives=20, first=5)
    split = cold_start(dataset, config)
    cases, tuning = split.cases("joint"), split.cases("joint", split.train)
    assert find_cold_leaks(split, [tuning], [cases]) == []

    def leaks(split=split, tuning=tuning, cases=cases):
        return "; ".join(find_cold_leaks(split, [tuning], [cases]))

    user = split.test[0]
    key = dataset.user_keys[user]
    doubled = damaged(split, warm=np.append(split.warm, user))
    assert "1 users are not in exactly one of the warm, tuning and test groups" in leaks(doubled)
    assert f"events of test users are also training's, e.g. user {key}" in leaks(doubled)
    forgotten = damaged(split, warm=split.warm[1:])
    assert "is in 0" in leaks(forgotten)
    uncropped = damaged(split, items=dataset.sequence_items, offsets=dataset.offsets)
    assert "have other usable events than held_out allows" in leaks(uncropped)
    few = damaged(split, config=dataclasses.replace(config, kind="few_events"))
    assert "have other usable events than few_events allows" in leaks(few)
    tested = leaks(tuning=split.cases("joint", split.test[:1]))
    assert f"1 users of joint cases that tune are of another group, e.g. user {key}" in tested
    assert "events of test users are also training's" in tested
    assert "joint cases that test are of another" in leaks(cases=tuning)
    later = dataclasses.replace(cases, targets=np.roll(cases.targets, 1))
    assert "do not ask for the event that follows their history" in leaks(cases=later)
    assert "the first candidate is not the target" in leaks(cases=later)
    known = cases.items_NxS
    for shown in (np.where(known > 0, known % ITEMS + 1, 0), known[:, ::-1]):
        found = leaks(cases=dataclasses.replace(cases, items_NxS=shown))
        assert "do not ask for the event that follows their history" in found
    # all of a user's events, and the next user's first one
    beyond = Cases(
        users=np.array([0], np.int32),
        items_NxS=(dataset.sequence(0) + 1)[None],
        targets=dataset.sequence(1)[:1],
        candidates=dataset.sequence(1)[None, :1],
        kind="few-shot",
    )
    assert "1 few-shot cases do not ask for the event" in leaks(cases=beyond)
    own = cases.candidates.copy()
    own[3, 7] = dataset.sequence(int(cases.users[3]))[-1]  # an event after the crop, or the last
    found = leaks(cases=dataclasses.replace(cases, candidates=own))
    assert "1 negatives are events of their user" in found
    twice = cases.candidates.copy()
    twice[3, 7] = twice[3, 8]
    found = leaks(cases=dataclasses.replace(cases, candidates=twice))
    assert found == "1 joint cases have a candidate twice"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "heldout"}, "kind: found 'heldout', expected held_out or few_events; did you"),
        ({"share": 1.0}, "share: found 1.0, expected more than 0 and less than 1"),
        ({"train_share": 0.0}, "train_share: found 0.0"),
        ({"first": 0}, "first: found 0, expected 1 or more"),
        ({"threshold": 1}, "threshold: found 1, expected 2 or more"),
        ({"negatives": 0}, "negatives: found 0"),
        ({"seed": -1}, "seed: found -1"),
        ({"k_shots": (0, 1)}, "k_shots: found 0, expected 1 or more"),
    ],
)
def test_bad_settings(fields, message):
    with pytest.raises(UserError, match=message):
        ColdStartConfig(**fields)


def test_what_a_dataset_cannot_give_is_one_line():
    dataset = log(0)
    with pytest.raises(UserError, match=r"found 0 cold users .of 30 those with fewer than 3 even"):
        cold_start(dataset, ColdStartConfig(kind="few_events", threshold=3))
    with pytest.raises(UserError, match=r"found 30 cold users .*to be warm"):
        cold_start(dataset, ColdStartConfig(kind="few_events", threshold=50))
    with pytest.raises(UserError, match=r"found 1 cold users .1% of 100. of 100; expected"):
        cold_start(log(0, users=100), ColdStartConfig(share=0.01))
    split = cold_start(dataset, ColdStartConfig(negatives=39))
    with pytest.raises(UserError, match=r"of 40 items, expected 39 others"):
        split.cases("joint")
    with pytest.raises(UserError, match="found 'five-shot', expected zero-shot, few-shot, joint"):
        split.cases("five-shot")


def test_only_first_events():
    split = cold_start(log(0), ColdStartConfig(first=1, negatives=5))
    assert split.kinds == ("zero-shot",)
    assert split.cases("joint").items_NxS.tolist() == [[0]] * len(split.test)
