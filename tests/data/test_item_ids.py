"""Item ids: unique, deterministic, made from training interactions only."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from p5jax.core.errors import UserError
from p5jax.data.building import build_dataset
from p5jax.data.dataset import Dataset
from p5jax.data.item_ids import (
    ID_TOKEN,
    ClusterConfig,
    IdSource,
    assign_item_ids,
    id_tokens,
    spectral_points,
)
from p5jax.data.leaks import find_leaks
from p5jax.data.prepare import prepare
from p5jax.data.readers.sequences import read_sequences
from p5jax.data.schemes import SCHEMES, Scheme, is_leaky

TRAINING_ONLY = [scheme for scheme in SCHEMES if scheme != "released"]


def assign(scheme, sequences, num_items, seed=0, **settings):
    sequences = [np.asarray(sequence, np.int32) for sequence in sequences]
    return assign_item_ids(scheme, IdSource(sequences, num_items, seed, **settings))


def communities(groups=4, size=40, users=400, seed=0):
    """Users who each stay within one of `groups` groups of items; item i is in group i % groups."""
    rng = np.random.default_rng(seed)
    return [
        rng.choice(size, 6, replace=False) * groups + rng.integers(groups) for _ in range(users)
    ]


def test_only_released_is_leaky():
    assert [scheme for scheme in SCHEMES if is_leaky(scheme)] == ["released"]


@pytest.mark.parametrize("scheme", TRAINING_ONLY)
def test_unique_and_reproducible(scheme):
    sequences = communities()
    ids = assign(scheme, sequences, 165, seed=5)
    assert len(ids) == len(set(ids)) == 165
    assert ids == assign(scheme, sequences, 165, seed=5)
    if scheme in ("random", "sequential"):
        assert sorted(map(int, ids)) == list(range(1, 166))
        assert id_tokens(ids) == []
    else:
        assert all(ID_TOKEN.sub("", text) == "" for text in ids)


@pytest.mark.parametrize("scheme", ["random", "sequential", "collaborative", "semantic"])
def test_the_seed_matters(scheme):
    sequences = communities()
    assert assign(scheme, sequences, 165, seed=1) != assign(scheme, sequences, 165, seed=2)


def test_sequential_by_hand():
    ids = assign("sequential", [[4, 2], [2, 0, 4], [3]], 7)
    assert [ids[item] for item in (4, 2, 0, 3)] == ["1", "2", "3", "4"]
    assert sorted(ids[item] for item in (1, 5, 6)) == ["5", "6", "7"]


def test_unseen_items_follow_no_order():
    """Items only in held-out pairs: their numbers say nothing about their source order."""
    ids = np.array(assign("sequential", [[0, 1]], 2002, seed=3), int)
    assert abs(np.corrcoef(np.arange(2000), ids[2:])[0, 1]) < 0.08


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_held_out_items_change_nothing(data):
    """Altering and permuting what is held out leaves every id as it was, in every scheme."""
    num_items = 60
    item = st.integers(0, num_items - 1)
    full = data.draw(st.lists(st.lists(item, min_size=3, max_size=9), min_size=1, max_size=12))
    other = [sequence[:-2] + data.draw(st.lists(item, min_size=2, max_size=2)) for sequence in full]
    config = ClusterConfig(branching=3, max_leaf=5)
    for scheme in TRAINING_ONLY:
        first, second = (
            assign(scheme, [sequence[:-2] for sequence in version], num_items, clusters=config)
            for version in (full, other)
        )
        assert first == second


@pytest.mark.parametrize("scheme", TRAINING_ONLY)
def test_held_out_pairs_change_nothing_in_a_prepared_dataset(tmp_path, scheme):
    """From file to folder: users trade their held-out items, no item gets another id."""
    rng = np.random.default_rng(2)
    training = [rng.choice(40, 6, replace=False) for _ in range(60)]
    held = np.stack([rng.permutation(np.repeat(np.arange(n, n + 15), 4)) for n in (40, 55)], axis=1)
    found = []
    for name, ends in (("a", held), ("b", held[::-1, ::-1])):
        lines = [
            " ".join(map(str, [user, *(items + 1), *(last + 1)]))
            for user, (items, last) in enumerate(zip(training, ends, strict=True))
        ]
        file = tmp_path / f"{name}.txt"
        file.write_text("\n".join(lines) + "\n")
        build_dataset(read_sequences(file), tmp_path / name, k_core=1, scheme=scheme, seed=4)
        dataset = Dataset.load(tmp_path / name)
        found.append(dict(zip(dataset.item_keys, dataset.item_ids, strict=True)))
    assert found[0] == found[1]


def test_collaborative_finds_the_communities():
    ids = assign("collaborative", communities(groups=4), 160, clusters=ClusterConfig(4, 40, 1.0))
    groups = [{ids[item].split(">")[0] for item in range(g, 160, 4)} for g in range(4)]
    assert [len(found) for found in groups] == [1, 1, 1, 1]
    assert len(set.union(*groups)) == 4


@pytest.mark.parametrize("num_items", [60, 400])  # of which dense matrices are made, and not
def test_points_are_eigenvectors_of_the_co_occurrence(num_items):
    rng = np.random.default_rng(0)
    counts = np.zeros((num_items, num_items))
    bought = np.zeros((5 * num_items, num_items))
    for user in range(len(bought)):
        group = 20 * rng.integers(num_items // 20)  # items of a user are of one group, or nearly
        items = np.unique([*(group + rng.choice(20, 6)), rng.integers(num_items)])
        bought[user, items] = 1
        for one in items:
            for other in items[items != one]:
                counts[one, other] += 1
    degree = counts.sum(axis=0)
    extra = degree.mean() / 10
    scale = 1 / np.sqrt(degree + extra)
    values, vectors = np.linalg.eigh((counts + extra / num_items) * np.outer(scale, scale))
    assert np.diff(values)[-4:].min() > 1e-4  # or the vectors could be any that span the same
    vectors = vectors[:, -4:] / np.linalg.norm(vectors[:, -4:], axis=1, keepdims=True)
    points = spectral_points(sp.csr_array(bought), 4, rng)
    signs = np.sign((points * vectors).sum(axis=0))
    np.testing.assert_allclose(points * signs, vectors, atol=2e-6)


@pytest.mark.parametrize(("branching", "slack"), [(2, 1.0), (2, 1.9), (3, 2.9), (5, 1.0)])
def test_every_setting_ends(branching, slack):
    ids = assign("collaborative", communities(), 165, clusters=ClusterConfig(branching, 1, slack))
    assert len(set(ids)) == 165


def test_collaborative_shape():
    """No id is the beginning of another, leaves and branches keep their limits, levels differ."""
    config = ClusterConfig(branching=4, max_leaf=8)
    ids = assign("collaborative", communities(), 165, clusters=config)
    paths = [tuple(ID_TOKEN.findall(text)) for text in ids]
    assert all(token.startswith(f"<c{i}_") for path in paths for i, token in enumerate(path))
    interior = {path[:depth] for path in paths for depth in range(len(path))}
    assert interior.isdisjoint(paths)
    for prefix in interior:
        children = {path[len(prefix)] for path in paths if path[: len(prefix)] == prefix}
        limit = config.max_leaf if any((*prefix, c) in paths for c in children) else 4
        assert len(children) <= limit


@pytest.mark.parametrize("scheme", ["collaborative", "semantic"])
def test_ids_do_not_depend_on_the_cores(scheme):
    from threadpoolctl import threadpool_limits

    sequences = communities(groups=10, size=60, users=1500)
    with threadpool_limits(1):
        alone = assign(scheme, sequences, 600)
    assert assign(scheme, sequences, 600) == alone


def test_leaves_start_with_the_popular():
    sequences = [[0, 1, 2], [1, 2], [2], [2, 3]]
    ids = assign("collaborative", sequences, 5)
    assert ids[2] == "<c0_0>"
    assert ids[1] == "<c0_1>"
    assert sorted(ids) == [f"<c0_{number}>" for number in range(5)]


@pytest.mark.parametrize(
    "sequences", [[], [[]], [[0]], [[0, 1]], [[i] for i in range(90)], [[3, 4], [5, 6], [80, 81]]]
)
def test_graphs_without_structure(sequences):
    """No interactions, isolated items, tiny components: still unique, short ids."""
    ids = assign("collaborative", sequences, 90, clusters=ClusterConfig(4, 8, slack=2.0))
    assert len(set(ids)) == 90
    # Each level at least halves: 90, 45, 23, 12, 6 and then a leaf.
    assert max(len(ID_TOKEN.findall(text)) for text in ids) <= 5


@pytest.mark.parametrize("num_items", [0, 1])
@pytest.mark.parametrize("scheme", TRAINING_ONLY)
def test_tiny_catalogues(scheme, num_items):
    assert len(assign(scheme, [], num_items)) == num_items


def test_thousands_of_items_in_seconds():
    rng = np.random.default_rng(0)
    sequences = [
        (rng.integers(60) * 200 + rng.integers(200, size=7)).astype(np.int32) for _ in range(20000)
    ]
    start = time.perf_counter()
    ids = assign("collaborative", sequences, 12101)
    assert time.perf_counter() - start < 60
    assert len(set(ids)) == 12101
    assert len(id_tokens(ids)) <= 128


def test_token_scheme():
    assert assign("token", [], 3) == ["<i0_0>", "<i0_1>", "<i0_2>"]


def test_released_keeps_the_numbering():
    numbers = ["7", "3", "12"]
    assert assign_item_ids("released", IdSource([], 3, 0, numbers)) == numbers


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        (None, "no item numbering of its own"),
        (["1", "2"], "found 2 numbers, expected 3"),
        (["1", "2", "x"], "found 'x', expected a decimal number"),
        (["1", "2", "1"], "number 1 stands for more than one item"),
    ],
)
def test_released_errors(numbers, words):
    with pytest.raises(UserError, match=words):
        assign_item_ids("released", IdSource([], 3, 0, numbers))


def test_unknown_scheme_names_the_nearest():
    with pytest.raises(UserError, match=r"'colaborative'.*did you mean collaborative"):
        assign("colaborative", [], 3)


@pytest.mark.parametrize("bad", [{"branching": 1}, {"max_leaf": 0}, {"slack": 0.5}, {"slack": 16}])
def test_cluster_config_is_checked(bad):
    with pytest.raises(UserError, match=f"ClusterConfig.{next(iter(bad))}: found .*, expected"):
        ClusterConfig(**bad)


def test_id_tokens_in_order():
    ids = ["<c0_10><c1_2>", "<c0_9><c1_0>", "<c0_9><c1_2>", "<b0_3>"]
    assert id_tokens(ids) == ["<b0_3>", "<c0_9>", "<c0_10>", "<c1_0>", "<c1_2>"]
    assert id_tokens(["17", "4"]) == []


def backwards(source):
    """A scheme of item ids: the numbers from the last item to the first."""
    return [str(source.num_items - item) for item in range(source.num_items)]


def test_a_scheme_is_a_function_and_a_line(monkeypatch, tmp_path):
    monkeypatch.setitem(SCHEMES, "backwards", Scheme(f"{__name__}:backwards"))
    made = prepare("synthetic", tmp_path / "d", item_ids="backwards")
    assert made.item_ids == [str(made.num_items - item) for item in range(made.num_items)]
    assert find_leaks(made) == []
    monkeypatch.setitem(SCHEMES, "backwards", Scheme(f"{__name__}:backwards", in_tokens=True))
    assert "expected id tokens only" in find_leaks(made)[0]
