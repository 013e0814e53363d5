"""Items that are kept from a model: in nothing that it is made from, and fairly ranked later."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from p5jax.core.errors import UserError
from p5jax.data.building import build_dataset
from p5jax.data.cold_items import ColdItemsConfig, are_cold, told_later, write_without
from p5jax.data.dataset import TRAIN, Dataset
from p5jax.data.extending import Extension
from p5jax.data.held_out import with_other_held_out
from p5jax.data.leaks import find_leaks
from p5jax.data.readers.synthetic import synthetic_raw
from p5jax.evaluation.cold_items import Asked, Measured, baseline_ranks, format_measured
from p5jax.memory.neighbours import BACKWARD, DAMPING, DECAY

CONFIG = ColdItemsConfig(share=0.25)


@pytest.fixture(scope="module")
def small(world) -> tuple[Dataset, np.ndarray]:
    return world, are_cold(world, CONFIG)


@pytest.fixture(scope="module")
def warm(small, tmp_path_factory) -> Dataset:
    out = tmp_path_factory.mktemp("warm") / "data"
    write_without(*small, out)
    return Dataset.load(out)


def keyed(dataset: Dataset) -> dict[str, list[str]]:
    """Each user's items in time order, by keys."""
    return {
        key: [dataset.item_keys[item] for item in dataset.sequence(user)]
        for user, key in enumerate(dataset.user_keys)
    }


def test_which_items_are_cold_is_decided_by_their_keys(world, tmp_path):
    cold = are_cold(world, CONFIG)
    assert 5 <= cold.sum() <= 25  # of 60, a quarter
    assert not np.array_equal(cold, are_cold(world, ColdItemsConfig(share=0.25, seed=1)))
    assert not (are_cold(world, ColdItemsConfig(share=0.1)) & ~cold).any()
    build_dataset(synthetic_raw(users=90, items=60, seed=0), tmp_path / "other", seed=4)
    other = Dataset.load(tmp_path / "other")
    names = {key for key, is_cold in zip(world.item_keys, cold, strict=True) if is_cold}
    found = zip(other.item_keys, are_cold(other, CONFIG), strict=True)
    assert all(is_cold == (key in names) for key, is_cold in found if key in world.item_keys)


def test_nothing_is_made_from_cold_items(small, warm):
    dataset, cold = small
    names = {key for key, is_cold in zip(dataset.item_keys, cold, strict=True) if is_cold}
    assert names.isdisjoint(warm.item_keys)
    left = {u: [i for i in items if i not in names] for u, items in keyed(dataset).items()}
    assert keyed(warm) == {u: items for u, items in left.items() if len(items) >= 3}
    assert find_leaks(warm) == []
    texts = zip(*(warm.reviews[name].to_pylist() for name in ("user", "item", "text")), strict=True)
    said = {(warm.user_keys[u], warm.item_keys[i], text) for u, i, text in texts}
    texts = zip(
        *(dataset.reviews[name].to_pylist() for name in ("user", "item", "text")), strict=True
    )
    before = {(dataset.user_keys[u], dataset.item_keys[i], text) for u, i, text in texts}
    kept = {row for row in before if row[1] not in names and row[0] in warm.user_keys}
    assert said == kept
    assert warm.families == dataset.families


@pytest.mark.parametrize("count", [0, 2])
def test_what_is_told_are_the_first_training_interactions(small, warm, count):
    dataset, cold = small
    raw = told_later(dataset, cold, count)
    table = dataset.interactions
    rows = sorted(
        (row for row in table.to_pylist() if row["split"] == TRAIN and cold[row["item"]]),
        key=lambda row: row["timestamp"],
    )
    seen, first = Counter[int](), []
    for row in rows:
        seen[row["item"]] += 1
        if seen[row["item"]] <= count:
            first.append((dataset.user_keys[row["user"]], dataset.item_keys[row["item"]]))
    told = zip(raw.user.tolist(), raw.item.tolist(), strict=True)
    assert [(raw.user_keys[u], raw.item_keys[i]) for u, i in told] == first
    assert raw.item_keys == [dataset.item_keys[item] for item in np.flatnonzero(cold)]
    positions = replace(raw, time_unit="position")  # of the source: its order says where
    more = Extension.of(warm, positions, same_source=True)
    assert more.counts["items"] == cold.sum()
    assert more.counts["interactions"] == len(first)
    keys = [*warm.item_keys, *more.items["key"].to_pylist()]
    for user, sequence in zip(warm.user_keys, more.new_items.sequences, strict=False):
        own = [item for item in keyed(dataset)[user] if item in {keys[i] for i in sequence}]
        assert [keys[item] for item in sequence] == own


def test_held_out_rows_are_in_nothing_that_is_told(small):
    dataset, cold = small
    one, other = (told_later(each, cold, 3) for each in (dataset, with_other_held_out(dataset)))
    for name in ("user_keys", "item_keys", "item_columns"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("user", "item", "timestamp"):
        assert np.array_equal(getattr(one, name), getattr(other, name))


def test_ids_that_only_the_source_has_are_refused(small, tmp_path):
    dataset, cold = small
    leaky = Dataset.load(dataset.path)
    leaky.leaky = True
    with pytest.raises(UserError, match="expected ids that are made from training"):
        write_without(leaky, cold, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def brute(asked: Asked, texts, sequences, among) -> dict[str, list[list[float]]]:
    """Scores of all items for each user, -inf for what is not ranked, in plain Python."""
    count = len(texts)
    counts = Counter(item for sequence in sequences for item in sequence.tolist())
    near = np.zeros((count, count))
    for sequence in sequences:
        for a, b in np.ndindex(len(sequence), len(sequence)):
            if a < b:
                near[sequence[a], sequence[b]] += 1 / (b - a)
                near[sequence[b], sequence[a]] += BACKWARD / (b - a)
    weights = np.array([max(counts[item], 1.0) ** -DAMPING for item in range(count)])
    near = weights[:, None] * near * weights
    words = sorted({word for text in texts for word in text.split()})
    has = np.array([[text.split().count(word) for word in words] for text in texts], float)
    idf = np.log((1 + count) / (1 + (has > 0).sum(axis=0))) + 1
    with np.errstate(divide="ignore"):
        vectors = np.where(has > 0, 1 + np.log(has), 0) * idf
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    found: dict[str, list[list[float]]] = {"popularity": [], "co-occurrence": [], "text": []}
    for history in asked.histories:
        recent = np.zeros(count)
        for distance, item in enumerate(history[::-1]):
            recent[item] += DECAY**distance
        scores = {
            "popularity": np.array([counts[item] for item in range(count)], float),
            "co-occurrence": recent @ near,
            "text": recent @ vectors @ vectors.T,
        }
        for name, values in scores.items():
            barred = set(history.tolist()) | (set(range(count)) - set(among))
            row = [-np.inf if item in barred else values[item] for item in range(count)]
            found[name].append(row)
    return found


@pytest.mark.parametrize("among", [None, [6, 7, 8, 9]])
def test_baselines_rank_as_plain_counting_does(among):
    texts = ["red chair", "red table", "blue chair", "blue blue sofa", "green sofa", "lamp"]
    texts += ["red lamp", "green chair", "", "blue table"]
    rng = np.random.default_rng(0)
    sequences = [rng.permutation(10)[: rng.integers(1, 6)] for _ in range(9)]
    users = [rng.permutation(6)[:3] for _ in range(40)]
    asked = Asked([str(n) for n in range(40)], users, np.array([6 + n % 4 for n in range(40)]))
    candidates = None if among is None else np.array(among)
    found = dict(baseline_ranks(asked, sequences, texts, candidates))
    order = np.random.default_rng(0).permutation(10)  # of what is equal, the same for all
    expected = brute(asked, texts, sequences, among or range(10))
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        for rank, row, target in zip(found[name], rows, asked.targets, strict=True):
            keys = [(-round(score, 9), order[item]) for item, score in enumerate(row)]
            better = sum(key < keys[target] and row[n] > -np.inf for n, key in enumerate(keys))
            assert rank == better, name


def test_a_list_of_ten_has_no_rank_beyond_it():
    asked = Asked(["a", "b", "c"], [np.array([0])] * 3, np.array([1, 2, 3]))
    row = Measured("cold", 2, "text", asked, np.array([0.0, 9.0, 10.0]))
    assert row.metrics["HR@10"][0] == pytest.approx(2 / 3)
    assert row.metrics["NDCG@10"][0] == pytest.approx((1 + 1 / np.log2(11)) / 3)
    assert row.metrics["MRR"][0] == pytest.approx((1 + 0.1) / 3)
    assert format_measured([row]).startswith("cold, 2 interactions of each cold item told\n")
