"""Raw columns to a dataset folder."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest

from p5jax.core.errors import UserError
from p5jax.data.building import build_dataset
from p5jax.data.dataset import SPLITS, Dataset
from p5jax.data.readers.raw import ITEM_COLUMNS, RawData, RowCollector, empty_columns
from p5jax.data.readers.synthetic import synthetic_raw


def raw_of(rows: list[tuple], **more) -> RawData:
    """Rows are (user, item, rating, time[, headline, text])."""
    collector = RowCollector()
    for row in rows:
        collector.add(*row)
    return collector.raw_data(
        name="toy",
        format="test",
        user_columns={"name": [f"N {key}" for key in collector.users]},
        item_columns=empty_columns(ITEM_COLUMNS, len(collector.items)),
        time_unit="second",
        **more,
    )


def prepared(raw: RawData, tmp_path, **options) -> Dataset:
    build_dataset(raw, tmp_path / "out", **options)
    return Dataset.load(tmp_path / "out")


def keys(dataset: Dataset, user: str) -> list[str]:
    return [dataset.item_keys[i] for i in dataset.sequence(dataset.user_index(user))]


SQUARE = [(u, i, 4.0, 10 * n) for u in "uv" for n, i in enumerate("abcd")]


def test_time_decides_and_ties_stay_in_source_order(tmp_path):
    rows = [("u", "c", 1, 7), ("v", "x", 5, 0), ("u", "b", 2, 7), ("u", "a", 3, 2)]
    rows += [("v", "y", 5, 0), ("v", "z", 5, 0), ("u", "d", 4, 9)]
    data = prepared(raw_of(rows), tmp_path, k_core=1)
    assert keys(data, "u") == ["a", "c", "b", "d"]
    assert keys(data, "v") == ["x", "y", "z"]
    user = data.user_index("u")
    mine = data.interactions.to_pylist()[data.offsets[user] : data.offsets[user + 1]]
    assert [SPLITS[row["split"]] for row in mine] == ["train", "train", "validation", "test"]
    assert [row["rating"] for row in mine] == [3, 1, 2, 4]
    assert [row["timestamp"] for row in mine] == [2, 7, 7, 9]
    assert data.user_names[user] == "N u"


def test_what_was_understood_is_in_the_manifest(tmp_path):
    told = {"times": "seconds", "links": "warning: few match"}
    data = prepared(raw_of(SQUARE, understood=told), tmp_path, k_core=1)
    assert told.items() <= data.manifest["understood"].items()


def test_times_that_do_not_tell_the_order_are_counted(tmp_path):
    rows = [(u, i, 4.0, n) for u in "uv" for n, i in enumerate("abcde")]
    assert "ties" not in prepared(raw_of(rows), tmp_path, k_core=1).manifest["understood"]
    rows[1] = ("u", "b", 4.0, 0)
    told = prepared(raw_of(rows), tmp_path, k_core=1).manifest["understood"]["ties"]
    assert told.startswith("2 of 10 interactions have the time of another")
    rows[2] = ("u", "c", 4.0, 0)
    told = prepared(raw_of(rows), tmp_path, k_core=1).manifest["understood"]["ties"]
    assert told.startswith("warning: 3 of 10 interactions")


def test_repeats_are_dropped_and_counted_apart(tmp_path):
    again = [
        ("u", "a", 4.0, 0, None, None),  # the very same row: a duplicate
        ("u", "b", 2.0, 3, "h", "t"),  # an earlier review of the pair: it stays, the other goes
        ("v", "d", 4.0, 99, None, None),  # a later one goes
        ("v", "d", 4.0, 99, None, None),  # and its copy is a duplicate
    ]
    counts = build_dataset(raw_of(SQUARE + again), tmp_path / "out", k_core=1)
    assert (counts["duplicate_reviews"], counts["repeated_pairs"]) == (2, 2)
    assert counts["interactions"] == len(SQUARE)
    data = Dataset.load(tmp_path / "out")
    stars = {
        (data.user_keys[r["user"]], data.item_keys[r["item"]]): r["rating"]
        for r in data.interactions.to_pylist()
    }
    assert stars["u", "b"] == 2
    assert data.reviews["text"].to_pylist() == ["t"]


def test_one_review_under_several_items_stays_once_and_every_pair_stays(tmp_path):
    rows = [
        ("u", "a", 4.0, 1, "h", "the same words"),
        ("u", "b", 4.0, 2, "h", "the same words"),  # another time: another review
        ("u", "c", 4.0, 2, "h", "the same words"),  # the copy, of the validation pair
        ("u", "d", 4.0, 2, "h", None),
        ("v", "a", 4.0, 2, "h", "the same words"),  # another user
        ("v", "b", 4.0, 3, None, None),
        ("v", "c", 4.0, 4, None, None),
    ]
    counts = build_dataset(raw_of(rows), tmp_path / "out", k_core=1)
    data = Dataset.load(tmp_path / "out")
    assert (counts["copied_reviews"], counts["interactions"]) == (1, 7)
    kept = [
        (data.user_keys[r["user"]], data.item_keys[r["item"]]) for r in data.reviews.to_pylist()
    ]
    assert sorted(kept) == [("u", "a"), ("u", "b"), ("u", "d"), ("v", "a")]


def test_k_core_drops_and_counts(tmp_path):
    short = [*SQUARE, ("w", "a", 1.0, 0), ("w", "e", 1.0, 1)]
    # e has one user, so it goes; w then has one item left and goes too
    counts = build_dataset(raw_of(short), tmp_path / "out", k_core=2)
    assert [counts[f"dropped_{what}"] for what in ("users", "items", "interactions")] == [1, 1, 2]
    assert [counts[what] for what in ("users", "items", "interactions")] == [2, 4, 8]


def test_too_few_interactions_are_explained(tmp_path):
    with pytest.raises(
        UserError, match=r"toy: the 5-core is empty: found 2 users, 4 items, 8 "
    ) as e:
        build_dataset(raw_of(SQUARE), tmp_path / "out")
    assert "--k-core" in str(e.value)
    two = [*SQUARE, ("short", "a", 3.0, 1), ("short", "b", 3.0, 2)]
    with pytest.raises(
        UserError, match=r"user 'short' has 2 interaction.* expected at least 3"
    ) as e:
        build_dataset(raw_of(two), tmp_path / "out", k_core=2)
    assert "use --k-core 3" in str(e.value)
    assert not list(tmp_path.iterdir()), "nothing half-written is left"


def test_other_rating_scales_become_stars(tmp_path):
    rows = [
        (u, i, stars, t)
        for u in "uvw"
        for t, (i, stars) in enumerate(zip("abc", (0, 5, 10), strict=True))
    ]
    data = prepared(raw_of(rows), tmp_path, k_core=3, rating_scale=(0, 10))
    assert Counter(data.interactions["rating"].to_pylist()) == {1: 3, 3: 3, 5: 3}
    assert data.interactions["source_rating"].to_pylist() == [0, 5, 10] * 3
    assert data.manifest["protocol"]["ratings"] == {"scale": [0, 10], "how": "stated"}
    halves = [
        (u, i, s, t)
        for u in "uvw"
        for t, (i, s) in enumerate(zip("abc", (1.5, 4, 4.4), strict=True))
    ]
    data = prepared(raw_of(halves), tmp_path, k_core=3, rating_scale=(1, 5))
    assert Counter(data.interactions["rating"].to_pylist()) == {2: 3, 4: 6}
    none = [(u, i, math.nan, t) for u in "uvw" for t, i in enumerate("abc")]
    data = prepared(raw_of(none), tmp_path, k_core=3)
    assert data.interactions["rating"].null_count == 9
    assert data.families == ("sequential", "direct")


def test_features_are_extracted_from_training_reviews_only(tmp_path):
    rows = []
    for user in "uvwxyz":
        for time, item in enumerate("abcde"):
            text = "The zipper is good for us." if time < 3 else "The secret is good for us."
            rows.append((user, item, 4.0, time, "h", text))
    raw = raw_of(rows)
    data = prepared(raw, tmp_path)
    assert set(data.reviews["feature"].to_pylist()) == {"zipper", None}
    assert data.manifest["protocol"]["features"]["count"] == 1
    given = dataclasses.replace(raw, feature_words=["secret"])
    data = prepared(given, tmp_path)
    assert set(data.reviews["feature"].to_pylist()) == {"secret", None}


def test_every_reviewed_pair_has_its_interactions_split(world):
    split = {
        (r["user"], r["item"]): (r["split"], r["timestamp"], r["rating"])
        for r in world.interactions.to_pylist()
    }
    for review in world.reviews.to_pylist():
        expected = split[review["user"], review["item"]]
        assert (review["split"], review["timestamp"], review["rating"]) == expected
    raw = synthetic_raw(users=120, items=60, seed=0)
    source = {}
    for n, text in enumerate(raw.text.to_pylist()):
        source[raw.user_keys[raw.user[n]], raw.item_keys[raw.item[n]]] = text
    for review in world.reviews.to_pylist():
        pair = world.user_keys[review["user"]], world.item_keys[review["item"]]
        assert review["text"] == source[pair]


def test_profiles_and_item_columns_follow_their_owner(world):
    raw = synthetic_raw(users=120, items=60, seed=0)
    for row in world.users.to_pylist():
        index = raw.user_keys.index(row["key"])
        assert row["occupation"] == raw.user_columns["occupation"][index]
        assert row["name"] == raw.user_columns["name"][index]
    for row in world.items.to_pylist():
        assert row["title"] == raw.item_columns["title"][raw.item_keys.index(row["key"])]


def test_the_same_seed_gives_the_same_folder(tmp_path):
    raw = synthetic_raw(users=60, items=40, seed=3)
    first, second = tmp_path / "a", tmp_path / "b"
    for out, seed in ((first, 0), (second, 0)):
        build_dataset(raw, out, seed=seed)
    assert Dataset.load(first).fingerprint == Dataset.load(second).fingerprint
    build_dataset(raw, second, seed=1)
    assert Dataset.load(first).fingerprint != Dataset.load(second).fingerprint


def grouped_by_item(users: int) -> list[tuple]:
    """Neighbours in the source share an item; for every third user it is the held-out one."""
    rows = []
    for n in range(users):
        shared = f"shared{n // 6}"
        own = [f"item{(5 * n + j) % 40}" for j in range(4)]
        rows += [(f"u{n:03d}", item, math.nan, t) for t, item in enumerate(own)]
        rows.append((f"u{n:03d}", shared, math.nan, 99 if n % 3 == 0 else -1))
    return rows


def test_user_numbers_do_not_tell_who_shares_a_held_out_item(tmp_path):
    def neighbour_hits(scheme: str) -> float:
        raw = raw_of(grouped_by_item(600))
        raw = dataclasses.replace(
            raw, source_numbers=[str(i + 1) for i in range(len(raw.item_keys))]
        )
        data = prepared(raw, tmp_path, scheme=scheme)
        hits = []
        for user in range(2, data.num_users - 2):
            near = [data.history(user + step, "validation") for step in (-2, -1, 1, 2)]
            hits.append(data.target(user, "test") in np.concatenate(near))
        return float(np.mean(hits))

    assert neighbour_hits("released") > 0.3  # the source's order leaks, as its name says
    assert neighbour_hits("sequential") < 0.15


def test_released_numbers_are_the_sources(tmp_path):
    numbers = ["7", "3", "12", "5"]
    rows = [(u, i, math.nan, t) for u in ("9", "2", "4") for t, i in enumerate(numbers)]
    raw = raw_of(rows, source_numbers=numbers)
    data = prepared(raw, tmp_path, k_core=3, scheme="released")
    assert data.leaky
    assert data.user_keys == ["9", "2", "4"]
    assert dict(zip(data.item_keys, data.item_ids, strict=True)) == {n: n for n in numbers}
    with pytest.raises(UserError):
        build_dataset(raw_of(rows), tmp_path / "out", k_core=3, scheme="released")
