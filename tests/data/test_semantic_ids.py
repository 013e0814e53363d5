"""Semantic ids: a plain residual k-means gives the same, and every item has its own."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from sklearn.cluster import kmeans_plusplus

from p5jax.core.errors import UserError
from p5jax.data.dataset import Dataset
from p5jax.data.item_ids import ID_TOKEN, IdSource, assign_item_ids
from p5jax.data.leaks import find_leaks
from p5jax.data.prepare import prepare
from p5jax.data.semantic_ids import distinct_codes, usual_codes
from p5jax.evaluation.audit import audit, format_audit


def unit(vectors):
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 1e-9)


def blobs(count, seed=0, width=6):
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((12, width))
    return unit(middles[rng.integers(12, size=count)] + 0.3 * rng.standard_normal((count, width)))


def plain_residual_k_means(points, levels, codes, rng):
    """Lloyd's steps from k-means++ until nothing moves; the codes and the last distances."""
    found, left = [], points
    for _ in range(levels):
        k = min(codes, len(np.unique(left, axis=0)))
        centres, _ = kmeans_plusplus(left, k, random_state=int(rng.integers(2**31)))
        label = None
        while True:
            distance = ((left[:, None] - centres) ** 2).sum(axis=2)
            moved = distance.argmin(axis=1)
            if label is not None and (moved == label).all():
                break
            label = moved
            assert len(np.unique(label)) == k  # empty clusters would need a rule
            centres = np.stack([left[label == each].mean(axis=0) for each in range(k)])
        found.append(label)
        left = unit(left - centres[label])
    return np.stack(found, axis=1), distance


@pytest.mark.parametrize("seed", range(3))
def test_codes_are_those_of_a_plain_residual_k_means(seed):
    points = blobs(150, seed)
    expected, distance = plain_residual_k_means(points, 3, 8, np.random.default_rng(seed))
    found = distinct_codes(points, 3, 8, np.random.default_rng(seed))
    np.testing.assert_array_equal(found[:, :2], expected[:, :2])
    assert len(np.unique(found, axis=0)) == 150
    collisions = 0
    for prefix in np.unique(expected[:, :2], axis=0):
        rows = np.flatnonzero((expected[:, :2] == prefix).all(axis=1))
        alone = len(np.unique(expected[rows, 2])) == len(rows)
        collisions += not alone
        if alone:
            np.testing.assert_array_equal(found[rows, 2], expected[rows, 2])
        elif len(rows) <= 4:  # every way to give each another code
            best = min(
                sum(distance[row, code] for row, code in zip(rows, way, strict=True))
                for way in itertools.permutations(range(8), len(rows))
            )
            assert distance[rows, found[rows, 2]].sum() == pytest.approx(best, abs=1e-5)
    assert collisions


def test_equal_points_beyond_the_codes_get_numbers_of_their_own():
    points = np.repeat(blobs(2), [30, 1], axis=0)
    found = distinct_codes(points, 2, 4, np.random.default_rng(0))
    assert len(np.unique(found, axis=0)) == 31
    assert sorted(found[:30, 1]) == list(range(30))
    assert len(np.unique(distinct_codes(points, 1, 4, np.random.default_rng(0)))) == 31


def test_a_larger_catalogue_has_more_codes_up_to_the_published_number():
    assert [usual_codes(n) for n in (0, 60, 900, 12_101, 10**6)] == [16, 16, 64, 256, 256]


def test_items_of_one_community_share_their_first_code():
    rng = np.random.default_rng(0)
    sequences = [rng.choice(40, 6, replace=False) * 4 + rng.integers(4) for _ in range(500)]
    ids = assign_item_ids("semantic", IdSource(sequences, 160, 0, codes=4))
    groups = [{ids[item].split(">")[0] for item in range(g, 160, 4)} for g in range(4)]
    assert [len(found) for found in groups] == [1, 1, 1, 1]
    assert len(set.union(*groups)) == 4


def test_alike_items_follow_no_order():
    """Items without vectors are numbered by chance, not as the source numbers them."""
    ids = assign_item_ids("semantic", IdSource([], 500, 3))
    numbers = [int(ID_TOKEN.findall(text)[-1].split("_")[1][:-1]) for text in ids]
    assert abs(np.corrcoef(np.arange(500), numbers)[0, 1]) < 0.15


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A synthetic dataset, its own vectors, and the dataset prepared with them."""
    folder = tmp_path_factory.mktemp("semantic")
    plain = prepare("synthetic", folder / "plain", item_ids="semantic", id_levels=2, id_codes=12)
    vectors = blobs(plain.num_items).astype(np.float32)
    np.save(folder / "vectors.npy", vectors)
    own = prepare(
        "synthetic", folder / "own", item_ids="semantic", item_vectors=folder / "vectors.npy"
    )
    return plain, own, vectors


def test_the_shape_that_is_asked_for_is_recorded_and_sound(given):
    plain, _, _ = given
    tokens = [ID_TOKEN.findall(text) for text in plain.item_ids]
    assert {len(each) for each in tokens} == {2}
    assert plain.manifest["item_ids"] == {
        **{"scheme": "semantic", "seed": 0, "leaky": False},
        **{"levels": 2, "codes": 12},
    }
    assert find_leaks(plain) == []


def test_given_vectors_decide_and_are_kept(given):
    plain, own, vectors = given
    np.testing.assert_array_equal(own.given_vectors, vectors)
    source = IdSource(plain.training_sequences, own.num_items, 0, vectors=vectors)
    assert own.item_ids == assign_item_ids("semantic", source)
    result = audit(own)
    assert result["leaks"] == []
    assert result["item_ids"]["vectors"].endswith("vectors.npy")
    assert "what they were made from is not known" in format_audit(result)
    assert own.manifest["sources"][-1]["path"].endswith("vectors.npy")


def test_ids_that_other_vectors_give_are_a_leak(given):
    _, own, vectors = given
    column = own.items.column_names.index("vector")
    changed = own.items.set_column(column, "vector", [vectors[::-1].tolist()])
    tables = {"users": own.users, "interactions": own.interactions, "reviews": own.reviews}
    other = Dataset(own.path, own.manifest, tables | {"items": changed})
    assert "differ from semantic ids" in find_leaks(other)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id_levels": 2}, "id_levels: found item ids 'sequential', expected 'semantic'"),
        ({"item_ids": "token", "id_codes": 9}, "id_codes: found item ids 'token', expected"),
        ({"item_vectors": "a.npy", "text_encoder": "b"}, "expected one of the two"),
        ({"item_vectors": "no such.npy"}, "no such.npy: found .*expected item vectors"),
        ({"text_encoder": "no such"}, "no such: found no spiece.model and no run.json"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        prepare("synthetic", tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()


def test_a_manifest_of_no_levels_is_refused(tmp_path):
    prepare("synthetic", tmp_path / "d", item_ids="semantic")
    file = tmp_path / "d" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["item_ids"]["levels"] = 0
    file.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="item_ids: levels: found 0"):
        Dataset.load(tmp_path / "d")
