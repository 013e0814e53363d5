"""Training sequences: what a batch holds, that an epoch takes every user once, exact states."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5jax.core.errors import UserError
from p5jax.data.held_out import with_other_held_out
from p5jax.ppr.backbone.sequences import (
    SequenceConfig,
    SequenceIterator,
    right_aligned,
    users_fingerprint,
)

ITEMS = 40
SMALL = SequenceConfig(batch_size=4, widths=(3,))


def toy_dataset(lengths, seed=0, items=ITEMS):
    """Users of so many interactions; an item says whose it is and where it stands."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return SimpleNamespace(
        path="toy",
        offsets=offsets,
        sequence_items=np.concatenate([rng.permutation(items)[:n] for n in lengths]).astype(
            np.int32
        ),
        num_items=items,
        num_users=len(lengths),
        training_lengths=np.asarray(lengths) - 2,
    )


def iterator(dataset, config=SMALL, history=6, **keywords):
    users = keywords.pop("users", np.arange(dataset.num_users))
    return SequenceIterator(dataset, users, config, history, **keywords)


def rows_of(batch):
    """The real (items, targets) of each row that is not empty."""
    found = []
    for items, targets in zip(batch["items"], batch["targets"], strict=True):
        real = items > 0
        np.testing.assert_array_equal(real, targets > 0)
        assert not (np.diff(real.astype(int)) < 0).any()  # right-aligned
        if real.any():
            found.append((items[real], targets[real]))
    return found


def epoch(it):
    return [next(it) for _ in range(len(it.epoch(0)))]


LENGTHS = st.lists(st.integers(3, 20), min_size=1, max_size=12)


@settings(deadline=None, max_examples=50)
@given(LENGTHS, st.integers(0, 1000), st.integers(1, 8))
def test_an_epoch_takes_every_user_once_and_no_held_out_item(lengths, seed, history):
    dataset = toy_dataset(lengths)
    dataset.num_items = sum(lengths)
    # No item twice, so that a window tells its user.
    dataset.sequence_items = np.random.default_rng(seed).permutation(sum(lengths)).astype(np.int32)
    users = [u for u, n in enumerate(lengths) if n >= 4]
    if not users:
        with pytest.raises(UserError, match="no user with two training interactions"):
            iterator(dataset, history=history)
        return
    it = iterator(dataset, SequenceConfig(4, (3, 5), seed=seed), history)
    training = {u: dataset.sequence_items[dataset.offsets[u] : dataset.offsets[u + 1] - 2] + 1
                for u in users}  # fmt: skip
    for _ in range(3):
        left = Counter(users)
        for batch in epoch(it):
            width = batch["items"].shape[1]
            assert batch["items"].shape == (4, width)
            assert width in {history, *(w for w in (3, 5) if w < history)}
            for items, targets in rows_of(batch):
                whole = np.r_[items, targets[-1]]
                np.testing.assert_array_equal(whole[1:], targets)
                owners = [
                    u
                    for u in left
                    if left[u]
                    and any(
                        np.array_equal(training[u][s : s + len(whole)], whole)
                        for s in range(len(training[u]))
                    )
                    and len(items) == min(len(training[u]) - 1, history)
                ]
                assert owners
                left[owners[0]] -= 1
                smaller = [w for w in (3, 5) if len(items) <= w < history]
                assert width == (smaller[0] if smaller else history)
        assert not +left


def test_long_histories_have_random_windows_that_reach_every_item():
    dataset = toy_dataset([14])
    it = iterator(dataset, SequenceConfig(1, ()), 4)
    first = Counter(int(rows_of(next(it))[0][0][0]) for _ in range(400))
    training = dataset.sequence_items[:12] + 1
    assert set(first) == set(training[:8].tolist())  # 8 windows of 4 + 1 in 12 items
    assert all(abs(count - 50) < 5 * 50**0.5 for count in first.values())


def test_batches_differ_between_epochs_and_seeds_but_not_between_runs():
    dataset = toy_dataset([9] * 12)
    a, b, c = (iterator(dataset, SequenceConfig(4, (), seed=s), 6) for s in (0, 0, 1))
    one, two = epoch(a), epoch(a)

    def same(xs, ys):
        return all(np.array_equal(x["items"], y["items"]) for x, y in zip(xs, ys, strict=True))

    assert same(one, epoch(b))
    assert not same(one, two)
    assert not same(one, epoch(c))


def test_negatives_are_even_over_what_the_user_has_not():
    dataset = toy_dataset([12, 7, 5], items=15)
    it = iterator(dataset, SequenceConfig(2, (), negatives=5), 10)
    counts = {}
    for _ in range(600):
        batch = next(it)
        assert batch["negatives"].shape == (2, 10, 5)
        for row, items in enumerate(batch["items"]):
            if items.any():
                key = tuple(sorted({*items.tolist(), *batch["targets"][row].tolist()} - {0}))
                counts.setdefault(key, Counter()).update(
                    batch["negatives"][row][items > 0].ravel().tolist()
                )
    assert len(counts) == 3
    for known, drawn in counts.items():
        others = set(range(1, 16)) - set(known)
        assert set(drawn) == others
        expected = sum(drawn.values()) / len(others)
        assert all(abs(count - expected) < 6 * expected**0.5 for count in drawn.values())


def test_negatives_are_drawn_anew_for_every_batch():
    it = iterator(toy_dataset([8] * 8, items=1000), SequenceConfig(4, (), negatives=3), 5)
    drawn = [next(it)["negatives"].tobytes() for _ in range(6)]  # of three epochs
    assert len(set(drawn)) == 6


def test_a_user_who_has_everything_is_refused():
    with pytest.raises(UserError, match="a user who has every item"):
        iterator(_everything(), SequenceConfig(1, (), 1), 3)


def _everything():
    dataset = toy_dataset([5], items=5)
    dataset.num_items = 3
    dataset.sequence_items = np.array([0, 1, 2, 0, 1], np.int32)
    return dataset


@pytest.mark.parametrize("stop", [0, 1, 5, 11])
def test_a_state_continues_bit_for_bit(stop):
    dataset = toy_dataset([5, 9, 14, 20, 7, 6, 8, 30], items=60)
    config = SequenceConfig(2, (3, 5), negatives=2)
    it, fresh = iterator(dataset, config), iterator(dataset, config)
    for _ in range(stop):
        next(it)
    state = json.loads(json.dumps(it.get_state()))
    for _ in range(3):
        next(fresh)
    fresh.set_state(state)
    for _ in range(9):
        a, b = next(it), next(fresh)
        assert sorted(a) == ["items", "negatives", "targets"]
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], strict=True)


def test_a_state_of_other_settings_or_users_is_refused():
    dataset = toy_dataset([6] * 6)
    state = iterator(dataset).get_state()
    with pytest.raises(UserError, match="state: found seed = 0, expected 3"):
        iterator(dataset, SequenceConfig(4, (3,), seed=3)).set_state(state)
    with pytest.raises(UserError, match="state: found users"):
        iterator(dataset, users=[0, 1]).set_state(state)


def test_processes_share_the_rows():
    dataset = toy_dataset([6, 12, 8, 20, 9, 7])
    config = SequenceConfig(4, (3,), negatives=1)
    whole, *parts = (
        iterator(dataset, config),
        *(iterator(dataset, config, process_index=i, process_count=2) for i in (0, 1)),
    )
    for _ in range(7):
        batch, halves = next(whole), [next(part) for part in parts]
        for name in batch:
            np.testing.assert_array_equal(np.concatenate([h[name] for h in halves]), batch[name])
    assert parts[0].get_state() == parts[1].get_state()
    with pytest.raises(UserError, match="batch_size: found 4 rows, expected a multiple of the 3"):
        iterator(dataset, config, process_index=0, process_count=3)


def test_right_aligned_and_the_hash_of_users():
    rows = right_aligned([np.array([4, 0]), np.array([], int), np.array([1, 2, 3, 4])], 3)
    np.testing.assert_array_equal(rows, [[0, 5, 1], [0, 0, 0], [3, 4, 5]])
    assert users_fingerprint(np.array([3, 1])) == users_fingerprint(np.array([1, 3], np.int32))
    assert users_fingerprint(np.array([3, 1])) != users_fingerprint(np.array([3, 2]))
    for bad in ((5, 3), (3, 3), (0,)):
        with pytest.raises(UserError, match="SequenceConfig.widths"):
            SequenceConfig(widths=bad)
    with pytest.raises(UserError, match="SequenceConfig.seed: found -1, expected 0 to"):
        SequenceConfig(seed=-1)


def test_batches_and_negatives_are_the_same_whatever_is_held_out(world):
    config = SequenceConfig(batch_size=32, negatives=4)
    one, two = (epoch(iterator(data, config)) for data in (world, with_other_held_out(world)))
    assert any(batch["negatives"].any() for batch in one)
    for first, second in zip(one, two, strict=True):
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])
