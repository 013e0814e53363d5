"""The synthetic world: reproducible, learnable, and not by popularity alone."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse.linalg

from p5jax.core.errors import UserError
from p5jax.data.readers.synthetic import synthetic_raw


def digest(raw) -> str:
    parts = [raw.user.tolist(), raw.item.tolist(), raw.rating.tolist(), raw.timestamp.tolist()]
    parts += [raw.headline.to_pylist(), raw.text.to_pylist(), raw.user_columns, raw.item_columns]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@pytest.fixture(scope="module")
def raw():
    return synthetic_raw()


def test_a_seed_gives_one_world():
    small = {"users": 40, "items": 40}
    assert digest(synthetic_raw(seed=1, **small)) == digest(synthetic_raw(seed=1, **small))
    assert digest(synthetic_raw(seed=1, **small)) != digest(synthetic_raw(seed=2, **small))


def test_sizes_follow_the_arguments(raw):
    assert len(raw.user_keys) == len(set(raw.user_keys)) == 500
    assert len(raw.item_keys) == len(set(raw.item_columns["title"])) == 200
    events = np.bincount(raw.user)
    assert (events.min(), events.max()) == (5, 12)
    pairs = set(zip(raw.user.tolist(), raw.item.tolist(), strict=True))
    assert len(pairs) == len(raw.user), "a user has an item at most once"
    for name in ("name", "age", "gender", "occupation"):
        assert len(raw.user_columns[name]) == 500
    tiny = synthetic_raw(users=3, items=30, events=(3, 4))
    assert set(np.bincount(tiny.user)) <= {3, 4}


def test_time_passes_within_a_user(raw):
    for user in range(500):
        assert (np.diff(raw.timestamp[raw.user == user]) > 0).all()


def test_the_next_item_can_be_learned_and_popularity_is_weak(raw):
    sequences = [raw.item[raw.user == user].tolist() for user in range(500)]
    follows: dict[int, Counter] = {}
    for items in sequences:
        for last, following in pairwise(items[:-1]):
            follows.setdefault(last, Counter())[following] += 1
    popular = Counter(item for items in sequences for item in items[:-1]).most_common(10)
    best = {item for item, _ in popular}
    markov = np.mean([follows[s[-2]].most_common(1)[0][0] == s[-1] for s in sequences])
    popularity = np.mean([s[-1] in best for s in sequences])
    assert markov > 0.7
    assert popularity < 0.15


def test_stars_spread_and_come_from_user_and_item(raw):
    assert set(raw.rating.tolist()) == {1, 2, 3, 4, 5}
    assert np.bincount(raw.rating.astype(int))[1:].min() > 0.05 * len(raw.user)
    design = scipy.sparse.csr_array(
        (
            np.ones(2 * len(raw.user)),
            (np.tile(np.arange(len(raw.user)), 2), np.r_[raw.user, 500 + raw.item]),
        )
    )
    residual = raw.rating - design @ scipy.sparse.linalg.lsqr(design, raw.rating)[0]
    assert residual.var() < 0.25 * raw.rating.var()


def test_reviews_speak_of_a_feature_in_the_mood_of_the_stars(raw):
    texts, headlines = raw.text.to_pylist(), raw.headline.to_pylist()
    praise = ("great", "excellent", "lovely", "impressive")
    for text, headline, stars in zip(texts, headlines, raw.rating, strict=True):
        assert any(word in text for word in praise) == (stars >= 4)
        assert any(word in headline.lower() for word in praise) == (stars >= 4)
        assert "{" not in text + headline
    assert len(set(texts)) > 0.6 * len(texts)


def test_impossible_sizes_are_refused():
    with pytest.raises(UserError, match="found 5 users, 10 items"):
        synthetic_raw(users=5, items=10)
