"""Every kind of leak of a split by time, planted where it would be made, is a line of the audit."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

import p5jax
from p5jax.data import building, reviews, splits
from p5jax.data.building import build_dataset
from p5jax.data.dataset import TEST, TRAIN, Dataset
from p5jax.data.item_ids import IdSource, assign_item_ids
from p5jax.data.readers.synthetic import synthetic_raw
from p5jax.data.readers.texts import SCHEMA, Texts
from p5jax.data.writing import write_dataset
from p5jax.evaluation.baselines.reviews import Reviews
from p5jax.jobs.count_pairs import count_pairs
from p5jax.memory import histories
from p5jax.ppr import fitted
from p5jax.ppr.backbone.sequences import SequenceIterator
from p5jax.prompts import family, stars
from p5jax.text import corpus

RAW = synthetic_raw(users=60, items=40, seed=0)
FIRST, SECOND = np.quantile(RAW.timestamp, (0.6, 0.8)).astype(int).tolist()
SPLIT = f"time:{FIRST},{SECOND}"


def prepared(tmp_path, raw=RAW, **options) -> Dataset:
    build_dataset(raw, tmp_path / "d", split=SPLIT, **options)
    return Dataset.load(tmp_path / "d")


def leaks_of(tmp_path, raw=RAW, **options) -> list[str]:
    return p5jax.audit(prepared(tmp_path, raw, **options))["leaks"]


def rewritten(tmp_path, **tables: Callable[[pa.Table], pa.Table]) -> Dataset:
    """A prepared dataset with some tables changed, as if it had been prepared so."""
    data, manifest = prepared(tmp_path), {}
    for name in ("name", "format", "sources", "protocol", "counts", "item_ids"):
        manifest[name] = data.manifest[name]
    made = {
        name: tables.get(name, lambda table: table)(getattr(data, name))
        for name in ("users", "items", "interactions", "reviews")
    }
    write_dataset(tmp_path / "changed", **manifest, **made)
    return Dataset.load(tmp_path / "changed")


def with_column(table: pa.Table, name: str, values) -> pa.Table:
    place = table.column_names.index(name)
    return table.set_column(place, table.field(place), pa.array(values, table[name].type))


def whole(dataset: Dataset) -> list[np.ndarray]:
    return [dataset.sequence(user) for user in range(dataset.num_users)]


# ---- held-out rows among the rows of training ----


def a_held_out_pair_is_also_in_training(tmp_path, monkeypatch):
    """Repeated pairs are kept: some are bought before a cut and again after it."""
    monkeypatch.setattr(splits, "first_of_pairs", lambda user, item, time: np.arange(len(user)))
    row = int(RAW.timestamp.argmin())
    again = {"user": RAW.user[row], "item": RAW.item[row], "timestamp": RAW.timestamp.max()}
    again |= {"rating": RAW.rating[row], "line": 0}
    columns = {name: np.r_[getattr(RAW, name), value] for name, value in again.items()}
    said = pa.table([RAW.headline, RAW.text], SCHEMA)
    nothing = pa.table([[None], [None]], SCHEMA)
    texts = Texts.of(pa.concat_tables([said, nothing]))
    return leaks_of(tmp_path, dataclasses.replace(RAW, **columns, texts=texts))


def the_time_of_a_cut_is_in_training(tmp_path, monkeypatch):
    """Ties at the cut fall on both sides of it."""

    def by_time(timestamp, cuts):
        return np.searchsorted(np.array(cuts), timestamp, side="left").astype(np.int8)

    time = RAW.timestamp.copy()
    time[np.argsort(np.abs(time - FIRST))[:3]] = FIRST
    monkeypatch.setattr(splits, "by_time", by_time)
    return leaks_of(tmp_path, dataclasses.replace(RAW, timestamp=time))


def each_users_first_rows_train(tmp_path, monkeypatch):
    """Leave-one-out under a manifest that says that time is cut."""

    def by_time(timestamp, cuts):
        split = np.full(len(timestamp), TRAIN, np.int8)
        split[1::4], split[2::4] = 1, TEST
        return split

    monkeypatch.setattr(splits, "by_time", by_time)
    return leaks_of(tmp_path)


def a_time_after_the_cut_in_training(tmp_path, monkeypatch):
    def later(table):
        time = table["timestamp"].to_numpy().copy()
        split, user = table["split"].to_numpy(), table["user"].to_numpy()
        last = np.flatnonzero((split == TRAIN) & (np.r_[np.diff(user), 1] != 0))[0]
        time[last] = SECOND + 5
        return with_column(table, "timestamp", time)

    return p5jax.audit(rewritten(tmp_path, interactions=later))["leaks"]


def a_held_out_review_trains(tmp_path, monkeypatch):
    def moved(table):
        split = table["split"].to_numpy().copy()
        split[np.flatnonzero(split == TEST)[0]] = TRAIN
        return with_column(table, "split", split)

    return p5jax.audit(rewritten(tmp_path, reviews=moved))["leaks"]


# ---- held-out rows in what preparing fits ----


def item_ids_of_whole_sequences(scheme: str):
    def planted(tmp_path, monkeypatch):
        def named(raw, items, training, naming):
            table = made(raw, items, training, naming)
            number = {item: place for place, item in enumerate(items)}
            rows = [row for row in np.argsort(RAW.timestamp).tolist() if RAW.item[row] in number]
            later = [
                np.array([number[RAW.item[row]] for row in rows if RAW.user[row] == user])
                for user in range(len(RAW.user_keys))
            ]
            ids = assign_item_ids(scheme, IdSource(later, len(items), naming.seed))
            return with_column(table, "item_id", ids)

        made = building.items_table
        monkeypatch.setattr(building, "items_table", named)
        return leaks_of(tmp_path, scheme=scheme)

    planted.__name__ = f"{scheme}_ids_of_whole_sequences"
    return planted


def a_scale_of_all_ratings(tmp_path, monkeypatch):
    def fit(ratings, training, asked):
        return honest(ratings, np.ones_like(training), asked)

    honest = building.fit_ratings
    monkeypatch.setattr(building, "fit_ratings", fit)
    rating = np.where(RAW.timestamp >= SECOND, 2 * RAW.rating, RAW.rating).astype(np.float32)
    return leaks_of(tmp_path, dataclasses.replace(RAW, rating=rating))


def feature_words_of_all_reviews(tmp_path, monkeypatch):
    def extract(texts):
        said = ["I like the zipper of it. The zipper is great."] * 50
        return honest(pa.chunked_array([*RAW.text.chunks, pa.array(said, RAW.text.type)]))

    honest = reviews.extract_feature_words
    monkeypatch.setattr(reviews, "extract_feature_words", extract)
    return leaks_of(tmp_path)


# ---- held-out rows in what is learnt later ----


def a_vocabulary_of_held_out_reviews(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "TRAIN", TEST)
    return leaks_of(tmp_path)


def neighbours_of_all_rows(tmp_path, monkeypatch):
    everything = lambda dataset: np.ones(dataset.interactions.num_rows, bool)  # noqa: E731
    monkeypatch.setattr(histories, "in_training", everything)
    return leaks_of(tmp_path)


def stored_pairs_of_all_rows(tmp_path, monkeypatch):
    data = prepared(tmp_path)
    with monkeypatch.context() as planted:
        everything = lambda dataset: np.ones(dataset.interactions.num_rows, bool)  # noqa: E731
        planted.setattr(histories, "in_training", everything)
        count_pairs(data)
    return p5jax.audit(data)["leaks"]


def item_vectors_of_whole_sequences(tmp_path, monkeypatch):
    data = prepared(tmp_path, scheme="token")
    monkeypatch.setattr(Dataset, "training_sequences", property(whole))
    return p5jax.audit(data)["leaks"]


def negatives_that_know_what_is_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr(Dataset, "history", lambda self, user, split: self.sequence(user))
    return leaks_of(tmp_path)


def hard_negatives_near_held_out_items(tmp_path, monkeypatch):
    def near(dataset):
        lengths = np.diff(dataset.offsets)
        columns = vars(dataset) | {"training_lengths": lengths}
        return honest(SimpleNamespace(**columns))

    honest = family.Neighbours
    monkeypatch.setattr(family, "Neighbours", near)
    return leaks_of(tmp_path)


def known_stars_of_the_test(tmp_path, monkeypatch):
    monkeypatch.setattr(stars, "TRAIN", TEST)
    return leaks_of(tmp_path)


def ratings_of_the_test_in_baselines(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Reviews, "of", staticmethod(lambda dataset, split: Reviews(dataset.reviews))
    )
    return leaks_of(tmp_path)


def profiles_of_all_rows(tmp_path, monkeypatch):
    """The mean of all items of a user, held-out ones included, is an attribute of his profile."""

    def fit(dataset, users, config):
        user, item = (dataset.interactions[name].to_numpy() for name in ("user", "item"))
        mean = np.bincount(user, weights=item) / np.maximum(np.bincount(user), 1)
        column = pa.array([f"{value:.3f}" for value in mean])
        dataset.users = dataset.users.append_column("mean_item", column)
        return honest(dataset, users, config)

    honest = fitted.fit_profiles
    monkeypatch.setattr(fitted, "fit_profiles", fit)
    return leaks_of(tmp_path)


def a_backbone_of_whole_sequences(tmp_path, monkeypatch):
    def made(dataset, *given):
        columns = vars(dataset) | {"training_lengths": np.diff(dataset.offsets)}
        return SequenceIterator(SimpleNamespace(**columns), *given)

    monkeypatch.setattr(fitted, "SequenceIterator", made)
    return leaks_of(tmp_path)


PLANTED = [
    (
        a_held_out_pair_is_also_in_training,
        "1 held-out pairs are also training rows of interactions",
    ),
    (the_time_of_a_cut_is_in_training, "3 rows of interactions are in train but of a time that is"),
    (
        each_users_first_rows_train,
        r"\d+ rows of interactions are in train but of a time that is not",
    ),
    (a_time_after_the_cut_in_training, "1 rows of interactions are in train but of a time that is"),
    (a_held_out_review_trains, r"1 held-out pairs are also training rows of reviews \(review\)"),
    (item_ids_of_whole_sequences("sequential"), "item ids: .* differ from sequential ids"),
    (item_ids_of_whole_sequences("collaborative"), "item ids: .* differ from collaborative ids"),
    (item_ids_of_whole_sequences("semantic"), "item ids: .* differ from semantic ids"),
    (a_scale_of_all_ratings, "stars: made from .*, but training ratings alone give 1 to 5"),
    (feature_words_of_all_reviews, r"explanations: [1-9]\d* of \d+ training reviews differ"),
    (a_vocabulary_of_held_out_reviews, "^vocabulary: other held-out rows give others"),
    (neighbours_of_all_rows, "^neighbours of items: other held-out rows give others"),
    (neighbours_of_all_rows, "^memory: other held-out rows give others"),
    (stored_pairs_of_all_rows, r"^stored pairs: [1-9]\d* differ from those of training rows"),
    (item_vectors_of_whole_sequences, "^item vectors: other held-out rows give others"),
    (negatives_that_know_what_is_held_out, "^training prompts: other held-out rows give others"),
    (hard_negatives_near_held_out_items, "^training prompts: other held-out rows give others"),
    (known_stars_of_the_test, "^training prompts: other held-out rows give others"),
    (ratings_of_the_test_in_baselines, "^baselines: other held-out rows give others"),
    (profiles_of_all_rows, "^profiles and their bins: other held-out rows give others"),
    (a_backbone_of_whole_sequences, "^sequences of a backbone: other held-out rows give others"),
]


@pytest.mark.parametrize(
    ("plant", "line"), PLANTED, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_planted_leak_is_found(tmp_path, monkeypatch, plant, line):
    leaks = plant(tmp_path, monkeypatch)
    assert any(re.search(line, leak) for leak in leaks), leaks


@pytest.mark.parametrize("scheme", ["sequential", "collaborative", "semantic"])
def test_without_a_plant_nothing_is_found(tmp_path, scheme):
    data = prepared(tmp_path, scheme=scheme)
    count_pairs(data)
    result = p5jax.audit(data)
    assert result["leaks"] == []
    assert result["n"] == len(data.held_out_users("test"))
    known = set(data.sequence_items[data.interactions["split"].to_numpy() == TRAIN].tolist())
    warm = [
        user
        for user in data.held_out_users("test").tolist()
        if len(data.training_sequences[user]) and data.target(user, "test") in known
    ]
    assert result["warm"]["n"] == len(warm)
    assert 0 < len(warm) < result["n"]
