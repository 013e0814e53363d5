"""Other held-out rows: every field of theirs is another one, and nothing that was fitted is."""

from __future__ import annotations

import re

import numpy as np
import pytest
from damaged_world import sound

from p5jax.data.building import build_dataset
from p5jax.data.dataset import TRAIN, Dataset
from p5jax.data.feature_words import EXTRACTED
from p5jax.data.held_out import with_other_held_out
from p5jax.data.leaks import find_leaks
from p5jax.data.readers.synthetic import synthetic_raw
from p5jax.data.refitting import refitted_explanations, refitted_stars


def test_every_held_out_field_is_another_one_and_no_training_field(world):
    other = with_other_held_out(world)
    fields = {
        "interactions": ("item", "rating", "timestamp"),
        "reviews": (*("item", "rating", "timestamp"), "headline", "text", "feature", "sentence"),
    }
    for name, changed in fields.items():
        before, after = getattr(world, name), getattr(other, name)
        held = before["split"].to_numpy() != TRAIN
        assert held.any()
        for column in before.column_names:
            was, now = before[column].to_pylist(), after[column].to_pylist()
            differs = np.array([one != two for one, two in zip(was, now, strict=True)])
            expected = held if column in changed else np.zeros(len(held), bool)
            np.testing.assert_array_equal(differs, expected, err_msg=f"{name}.{column}")
        assert before.schema.equals(after.select(before.column_names).schema)
    assert other.users is world.users
    assert other.items is world.items


def test_the_changed_rows_are_in_the_same_order_and_reviews_follow_them(world):
    other = with_other_held_out(world)
    for user in range(world.num_users):
        rows = slice(other.offsets[user], other.offsets[user + 1])
        assert (np.diff(other.interactions["timestamp"].to_numpy()[rows]) >= 0).all()
    columns = ("user", "item", "rating", "timestamp", "split")
    pairs = {tuple(row[c] for c in columns) for row in other.interactions.to_pylist()}
    assert {tuple(row[c] for c in columns) for row in other.reviews.to_pylist()} <= pairs


def damaged(tmp_path, change) -> Dataset:
    """A sound dataset, written after a change to its parts."""
    parts = sound()
    change(parts)
    return parts.write(tmp_path / "d")


def by_scale(low: float, high: float, entry: dict):
    """Stars from this scale, of ratings from 1 to 5, under a manifest that says `entry`."""

    def change(parts) -> None:
        parts.protocol.update(entry)
        for rows in (parts.tables["interactions"], parts.tables["reviews"]):
            ratings = rows["rating"]
            if rows is parts.tables["interactions"]:
                rows["source_rating"] = list(ratings)
            rows["rating"] = [
                float(np.floor(1 + 4 * (r - low) / (high - low) + 0.5)) for r in ratings
            ]

    return change


RECOGNISED = {"ratings": {"scale": [1, 5], "how": "recognised"}}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (by_scale(1, 5, RECOGNISED), None),
        (by_scale(1, 10, RECOGNISED), r"stars: \d+ of \d+ training rows differ"),
        (
            by_scale(1, 10, {"ratings": {"scale": [1, 10], "how": "recognised"}}),
            r"stars: made from 1 to 10 .recognised., but training ratings alone give 1 to 5",
        ),
        (by_scale(1, 10, {"ratings": {"scale": [1, 10], "how": "stated"}}), None),
        # of the version before: its manifest has the range of all ratings
        (by_scale(1, 5, {"stars_from": [1, 5]}), None),
        (by_scale(1, 10, {"stars_from": [1, 10]}), "mapped from 1 to 10, which no training row"),
    ],
)
def test_a_scale_that_held_out_ratings_decided_is_found(tmp_path, change, found):
    leaks = find_leaks(damaged(tmp_path, change))
    assert len(leaks) == (found is not None)
    assert found is None or re.search(found, leaks[0]), leaks


def test_stars_and_explanations_of_a_prepared_world_are_made_again(world):
    other = with_other_held_out(world)
    assert world.manifest["protocol"]["ratings"]["how"] == "recognised"
    assert world.manifest["protocol"]["features"]["source"] == EXTRACTED
    assert refitted_stars(world, other) == []
    assert refitted_explanations(world, other) == []


def test_feature_words_of_held_out_reviews_are_found(tmp_path, monkeypatch):
    raw = synthetic_raw(users=60, items=40, seed=0)
    taken = "p5jax.data.reviews.extract_feature_words"
    monkeypatch.setattr(taken, lambda texts: ["the", "tin", "zipper"])
    build_dataset(raw, tmp_path / "d")
    dataset = Dataset.load(tmp_path / "d")
    (line,) = refitted_explanations(dataset, with_other_held_out(dataset))
    assert "training reviews differ from those that" in line
    assert "(the manifest has 3 words)" in line


def test_ratings_of_held_out_rows_alone_make_no_family(tmp_path):
    build_dataset(synthetic_raw(users=60, items=40, seed=0), tmp_path / "d", ratings=False)
    unrated = Dataset.load(tmp_path / "d")
    other = with_other_held_out(unrated)
    assert 0 < other.interactions["rating"].null_count < other.interactions.num_rows
    assert other.families == unrated.families == ("sequential", "explanation", "review", "direct")
