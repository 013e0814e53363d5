"""New rows behind a dataset's own: what joins it, where it stands, what its items are called."""

from __future__ import annotations

import copy

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from p5jax.core.errors import UserError
from p5jax.data.building import build_dataset
from p5jax.data.dataset import Dataset
from p5jax.data.extending import Extension
from p5jax.data.formats import NewRowsOptions
from p5jax.data.item_vectors import WINDOW, item_texts
from p5jax.data.leaks import find_leaks
from p5jax.data.new_ids import new_ids
from p5jax.data.new_items import NEAREST, PENALTIES, SHARPNESS, TEXT_WEIGHT, NewItems, text_map
from p5jax.data.readers.synthetic import synthetic_raw
from p5jax.data.readers.table import read_new


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Dataset:
    out = tmp_path_factory.mktemp("small") / "dataset"
    build_dataset(synthetic_raw(users=60, items=30, seed=1), out, scheme="token", seed=0)
    return Dataset.load(out)


def extension(dataset: Dataset, rows: list[tuple[str, str, int]], items=()) -> Extension:
    users, keys, times = zip(*rows, strict=True) if rows else ((), (), ())
    table = pa.table({"user": users, "item": keys, "timestamp": times}) if rows else ()
    return Extension.of(dataset, read_new(NewRowsOptions(interactions=table, items=items)))


TIMES = st.integers(1_300_000_000, 1_500_000_000)  # amidst those of the world
ROWS = st.lists(st.tuples(st.integers(0, 70), st.integers(0, 45), TIMES), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_every_user_has_what_is_known_and_what_is_new_in_time_order(small, found):
    users = [*small.user_keys, *(f"u{n}" for n in range(40))]
    items = [*small.item_keys, *(f"i{n}" for n in range(40))]
    rows = [(users[user], items[item], time) for user, item, time in found]
    known = {
        (small.user_keys[user], small.item_keys[item]): time
        for user, item, time in zip(
            *(small.interactions[name].to_pylist() for name in ("user", "item", "timestamp")),
            strict=True,
        )
    }
    expected = {user: [(t, i) for (u, i), t in known.items() if u == user] for user, _, _ in rows}
    taken = set(known)
    for user, item, time in sorted(rows, key=lambda row: row[2]):
        if (user, item) not in taken:
            taken.add((user, item))
            expected[user].append((time, item))
    if taken == set(known):
        with pytest.raises(UserError, match="found nothing that is new"):
            extension(small, rows)
        return
    made = extension(small, rows)
    keys = [*small.user_keys, *made.users["key"].to_pylist()]
    item_keys = [*small.item_keys, *made.items["key"].to_pylist()]
    assert len(set(keys)) == len(keys)
    assert len(set(item_keys)) == len(item_keys)
    table = made.interactions
    for user, pairs in expected.items():
        own = table.filter(pa.array(np.array(table["user"]) == keys.index(user)))
        listed = [item_keys[item] for item in own["item"].to_pylist()]
        assert listed == [item for _, item in sorted(pairs, key=lambda pair: pair[0])]
    assert table.num_rows == len(taken)


def test_an_extended_dataset_is_whole_and_has_nothing_held_out(small, tmp_path):
    items = pa.table({"item": ["told"], "title": ["A chair"]})
    made = extension(
        small, [("new", "bare", 1_500_000_000), ("new", small.item_keys[0], 1_500_000_001)], items
    )
    made.write(tmp_path / "more", new_ids(made.new_items))
    more = Dataset.load(tmp_path / "more")
    assert more.items["title"].to_pylist()[-2:] == [None, "A chair"]
    assert [more.item_keys[i] for i in more.sequence(more.user_index("new"))] == [
        *("bare", small.item_keys[0])
    ]
    for table in (more.interactions, more.reviews):
        assert set(table["split"].to_pylist()) == {0}
    assert [list(each) for each in more.training_sequences] == [
        list(more.sequence(user)) for user in range(more.num_users)
    ]
    with pytest.raises(UserError, match="of which no interaction is held out"):
        find_leaks(more)


def test_rows_without_times_stand_behind_what_is_known(small):
    user, seen = small.user_keys[2], set(small.sequence(2).tolist())
    fresh = [key for item, key in enumerate(small.item_keys) if item not in seen][:3]
    table = pa.table({"user": [user] * 3, "item": fresh})
    made = Extension.of(small, read_new(NewRowsOptions(interactions=table)))
    own = made.interactions.filter(pa.array(np.array(made.interactions["user"]) == 2))
    assert [small.item_keys[item] for item in own["item"].to_pylist()] == [
        *(small.item_keys[item] for item in small.sequence(2)),
        *fresh,
    ]


@pytest.mark.parametrize(("unit", "size"), [("ms", 10**3), ("us", 10**6), ("s", 1)])
def test_times_in_another_unit_become_the_datasets(small, unit, size):
    made = extension(small, [("new", small.item_keys[0], 1_400_000_000 * size + size // 2)])
    last = made.interactions.filter(
        pa.array(np.array(made.interactions["user"]) == small.num_users)
    )
    assert last["timestamp"].to_pylist() == [1_400_000_000], unit


def brute_place(sequences, rows, known: int, count: int) -> np.ndarray:
    """The mean of known items near each new one, by 1 / distance, pair by pair; else of all."""
    found = []
    for new in range(known, known + count):
        total, weight = np.zeros(rows.shape[1]), 0.0
        for sequence in sequences:
            for here, there in np.ndindex(len(sequence), len(sequence)):
                near = 0 < abs(here - there) <= WINDOW
                if near and sequence[here] == new and sequence[there] < known:
                    total += rows[sequence[there]] / abs(here - there)
                    weight += 1 / abs(here - there)
        found.append(total / weight if weight else rows.mean(axis=0))
    return np.array(found)


def test_a_new_item_is_where_its_neighbours_are_else_in_the_middle(small):
    rng = np.random.default_rng(0)
    rows, known = rng.normal(size=(small.num_items, 4)), small.num_items
    sequences = [rng.integers(0, known + 3, size) for size in (2, 5, 9, 25, 1)]
    items = NewItems(small, [""] * 4, sequences)
    expected = brute_place(sequences, rows, known, 4)
    assert not np.allclose(expected[1:3], rows.mean(axis=0))
    np.testing.assert_array_equal(expected[3], rows.mean(axis=0))
    np.testing.assert_allclose(items.placed(rows), expected, atol=1e-12)


def test_a_text_says_what_a_ridge_on_words_and_similar_texts_say():
    words = ["red chair", "red table", "blue chair", "blue sofa", "green sofa", "red sofa"]
    words += ["green table", "blue table lamp", "green lamp", "red lamp chair", "sofa table"]
    rows = np.random.default_rng(0).normal(size=(len(words), 3))
    asked = ["green chair", "unheard of", "lamp"]
    tells, found = text_map(words, rows, asked)
    assert tells.tolist() == [True, False, True]

    weigh = TfidfVectorizer(sublinear_tf=True, min_df=2).fit(words)
    x, new = weigh.transform(words).toarray(), weigh.transform(asked).toarray()[tells]

    def fit(x, y, penalty):
        """Least squares of centred rows with the penalty as more rows."""
        middle, mean = x.mean(axis=0), y.mean(axis=0)
        more = np.sqrt(penalty) * np.eye(x.shape[1])
        left = np.vstack([x - middle, more])
        right = np.vstack([y - mean, np.zeros((len(more), y.shape[1]))])
        weights = np.linalg.lstsq(left, right, rcond=None)[0]
        return lambda new: (new - middle) @ weights + mean

    def left_out(penalty):
        errors = [
            rows[n] - fit(np.delete(x, n, 0), np.delete(rows, n, 0), penalty)(x[n : n + 1])[0]
            for n in range(len(x))
        ]
        return np.mean(np.square(errors))

    best = min(PENALTIES, key=left_out)
    similar = []
    for cosine in new @ x.T:
        nearest = sorted(range(len(x)), key=lambda n: (-round(cosine[n], 9), n))[:NEAREST]
        weights = [cosine[n] ** SHARPNESS for n in nearest]
        similar.append(np.average(rows[nearest], axis=0, weights=weights))
    expected = (fit(x, rows, best)(new) + np.array(similar)) / 2
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_neighbours_count_beside_texts_and_texts_more_than_nothing(small):
    rows, known = np.random.default_rng(0).normal(size=(small.num_items, 4)), small.num_items
    title = small.titles[2] or ""
    texts = [title, "zzyzx", title, ""]
    items = NewItems(small, texts, [np.array([5, known])])
    told, (predicted,) = text_map(item_texts(small.items), rows, [title])
    assert told.all()
    middle = rows.mean(axis=0)
    both = (rows[5] + TEXT_WEIGHT * predicted) / (1 + TEXT_WEIGHT)
    expected = [both, middle, predicted, middle]
    np.testing.assert_allclose(items.placed(rows), expected, atol=1e-9)


def named(dataset: Dataset, scheme: str, ids: list[str], vectors: np.ndarray) -> Dataset:
    """The same dataset with other ids and given vectors."""
    other = copy.copy(dataset)
    other.item_ids, other.id_scheme = ids, scheme
    other.__dict__["given_vectors"] = vectors
    return other


def test_the_nearest_cluster_is_that_of_brute_force(small):
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(small.num_items, 5)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    clusters = rng.integers(0, 5, small.num_items)
    clusters[:5] = range(5)
    counts = [0] * 5
    ids = []
    for cluster in clusters.tolist():
        ids.append(f"<c0_{cluster}><c1_{counts[cluster]}>")
        counts[cluster] += 1
    sequences = [rng.integers(0, small.num_items + 6, 12) for _ in range(8)]
    items = NewItems(named(small, "collaborative", ids, vectors), [""] * 6, sequences)
    placed = brute_place(sequences, unit, small.num_items, 6)
    placed /= np.linalg.norm(placed, axis=1, keepdims=True)
    expected = []
    for vector in placed:
        middles = [unit[clusters == cluster].mean(axis=0) for cluster in range(5)]
        cluster = int(np.argmin([np.linalg.norm(vector - middle) for middle in middles]))
        expected.append(f"<c0_{cluster}><c1_{counts[cluster]}>")
        counts[cluster] += 1
    assert new_ids(items) == expected


def test_a_semantic_leaf_is_the_nearest_free_code(small):
    vectors = np.zeros((small.num_items, 4), np.float32)
    ids = []
    for item in range(small.num_items):
        cluster, code = divmod(item, 5)
        vectors[item] = np.eye(4)[0] if cluster < 3 else np.eye(4)[1]
        vectors[item, 2] = (code - 2) / 10
        vectors[item, 3] = cluster / 10
        ids.append(f"<s0_{cluster}><s1_{code}>")
    freed = ids.index("<s0_1><s1_3>")
    ids[freed] = "<s0_9><s1_0>"
    vectors[freed] = [0, 0, 0, 1]
    dataset = named(small, "semantic", ids, vectors)
    beside = [ids.index("<s0_1><s1_2>"), ids.index("<s0_1><s1_4>")]  # 3 is between them, and free
    sequences = [np.array([beside[0], small.num_items, beside[1]]), np.array([small.num_items + 1])]
    found = new_ids(NewItems(dataset, ["", ""], [sequences[0]] * 2))
    assert found[0] == "<s0_1><s1_3>"
    full = NewItems(
        dataset, [""] * 2, [sequences[0], sequences[0] + (sequences[0] >= small.num_items)]
    )
    assert new_ids(full)[1] == "<s0_1><s1_5>"  # no code is left


@pytest.mark.parametrize(
    ("scheme", "ids", "expected"),
    [
        ("sequential", ["7", "19", "3"], ["20", "21"]),
        ("random", ["1"], ["2", "3"]),
        ("token", ["<i0_4>", "<i0_11>"], ["<i0_12>", "<i0_13>"]),
    ],
)
def test_numbers_and_tokens_go_on(small, scheme, ids, expected):
    assert new_ids(NewItems(named(small, scheme, ids, None), ["", ""], [])) == expected


def test_a_sources_own_numbers_are_not_made_up(small):
    with pytest.raises(UserError, match="which only the source gives to new items, expected one"):
        new_ids(NewItems(named(small, "released", ["1"], None), [""], []))


def test_texts_of_known_items_are_those_of_the_dataset(small):
    made = extension(small, [], pa.table({"item": ["a", small.item_keys[0]], "title": ["x", "y"]}))
    assert made.new_items.texts == ["x"]
    assert made.items["key"].to_pylist() == ["a"]
    assert item_texts(made.dataset.items) == item_texts(small.items)
