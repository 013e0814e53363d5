"""Profiles: codes by hand, nothing of other users is fitted, and bad input in one line."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from cold_world import dataset_of
from hypothesis import example, given
from hypothesis import strategies as st

from p5jax.core.errors import UserError
from p5jax.ppr.profiles import Attribute, ProfileConfig, Profiles, ProfileSchema, fit_profiles


def people(**attributes):
    count = len(next(iter(attributes.values())))
    return dataset_of([[0, 1, 2]] * count, 5, attributes)


def everybody(dataset):
    return np.arange(dataset.num_users)


def fail(text: str) -> None:
    raise AssertionError(f"unexpected report: {text}")


def test_codes_by_hand():
    dataset = people(
        gender=["m", "f", None, "f", "m", " "],
        age=["10", "20", "30", "40", None, "50"],
    )
    schema = fit_profiles(dataset, everybody(dataset), ProfileConfig(bins=2))
    profiles = schema.profiles(dataset, fail)
    assert profiles.names == ("gender", "age")
    assert profiles.sizes == (3, 3)
    # f, m in order; ages are cut at 30, their median, which opens the second bin
    expected = [[2, 1], [1, 1], [0, 2], [1, 2], [2, 0], [0, 2]]
    np.testing.assert_array_equal(profiles.codes_UxM, expected)
    assert profiles.codes_UxM.dtype == np.int32


def test_only_the_fitting_users_are_fitted_and_others_are_counted_once():
    dataset = people(
        job=["cook", "guide", "cook", "pilot", "pilot", None],
        age=["20", "30", "40", "-3", "1000", "old"],
    )
    reports: list[str] = []
    schema = fit_profiles(dataset, np.arange(3), ProfileConfig(bins=2))
    profiles = schema.profiles(dataset, reports.append)
    assert profiles.sizes == (3, 3)
    np.testing.assert_array_equal(profiles.codes_UxM[3:], [[0, 1], [0, 2], [0, 0]])  # ends clamp
    (line,) = reports
    assert "job: 2 users, e.g. 'pilot'" in line
    assert "age: 1 users, e.g. 'old'" in line
    # whatever the others have, what is fitted stays the same
    other = people(job=["cook", "guide", "cook", "x", "y", "z"], age=["20", "30", "40"] + ["7"] * 3)
    assert fit_profiles(other, np.arange(3), ProfileConfig(bins=2)) == schema


@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=60),
    st.integers(2, 9),
    st.lists(st.floats(-1e6, 1e6), max_size=5),
)
@example([0, 1, -1, -1, -1], 2, [])  # most have the smallest value
def test_bins_are_ordered_never_empty_and_about_equal(values, bins, others):
    dataset = people(age=[str(value) for value in values], x=["a"] * len(values))
    if len(set(values)) <= bins:
        return  # categories
    config = ProfileConfig(("age",), bins=bins)
    (attribute,) = fit_profiles(dataset, everybody(dataset), config).attributes
    codes = attribute.codes(list(values))
    assert set(codes) == set(range(1, attribute.size))
    assert attribute.size - 1 <= bins
    for (low, below), (high, above) in pairwise(sorted(zip(values, codes.tolist(), strict=True))):
        assert below <= above
        assert low != high or below == above
    if len(set(values)) == len(values):
        counts = np.bincount(codes)[1:]
        assert counts.max() - counts.min() <= 2
    for code in attribute.codes(list(others)):
        assert 1 <= code < attribute.size


def test_default_attributes_leave_out_free_text_and_constants():
    count = 60
    dataset = people(
        zip=[f"{n:05d}x" for n in range(count)],
        planet=["earth"] * count,
        nothing=[None] * count,
        gender=["f", "m"] * (count // 2),
        height=[str(150 + n) for n in range(count)],
    )
    schema = fit_profiles(dataset, everybody(dataset), ProfileConfig())
    assert [attribute.name for attribute in schema.attributes] == ["gender", "height"]
    assert [attribute.size for attribute in schema.attributes] == [3, 9]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (("gendre",), "'gendre' is not in the users table, which has gender, zip, nothing; did"),
        (("zip",), "'zip': found 60 categories, e.g. '00000x', expected at most 50"),
        (("nothing",), "'nothing': found no value for the 60 users"),
        (("key",), "'key' is not in the users table"),
    ],
)
def test_bad_attributes_are_one_line(attributes, message):
    dataset = people(
        gender=["f", "m"] * 30, zip=[f"{n:05d}x" for n in range(60)], nothing=[None] * 60
    )
    with pytest.raises(UserError) as caught:
        fit_profiles(dataset, everybody(dataset), ProfileConfig(attributes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    if attributes == ("gendre",):
        assert "did you mean gender" in str(caught.value)


def test_a_dataset_without_attributes_is_refused():
    with pytest.raises(UserError, match="has no columns but its own; expected profile attributes"):
        fit_profiles(dataset_of([[0, 1, 2]], 5), np.arange(1), ProfileConfig())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bins": 1}, "bins: found 1, expected 2 or more"),
        ({"max_categories": 0}, "max_categories: found 0, expected 1 or more"),
        ({"attributes": ("age", "age")}, "found 'age' 2 times"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        ProfileConfig(**settings)


def test_saved_and_loaded(tmp_path):
    dataset = people(gender=["m", "é", "m"], age=["1.5", "20", "30"])
    schema = fit_profiles(dataset, everybody(dataset), ProfileConfig(bins=2))
    schema.save(tmp_path / "schema.json")
    loaded = ProfileSchema.load(tmp_path / "schema.json")
    assert loaded == schema
    assert [path.name for path in tmp_path.iterdir()] == ["schema.json"]
    with pytest.raises(UserError, match="profile attribute 'gender' is not in the users table"):
        loaded.profiles(people(age=["1"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory; expected a profile schema"),
        ("{", "expected a profile schema"),
        ("[]", "expected a profile schema"),
        (json.dumps({"format_version": 9, "attributes": []}), "found format version 9, expected 1"),
    ],
)
def test_a_bad_schema_is_one_line(tmp_path, text, message):
    path = tmp_path / "schema.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        ProfileSchema.load(path)


def profiles_of(users=4000):
    rng = np.random.default_rng(0)
    sizes = (4, 2, 6)
    codes = np.stack([rng.integers(size, size=users) for size in sizes], axis=1).astype(np.int32)
    return Profiles(("a", "b", "c"), codes, sizes)


def test_noise_replaces_a_share_by_other_categories():
    profiles = profiles_of()
    noisy = profiles.replaced(0.3, np.random.default_rng(1))
    before, after = profiles.codes_UxM, noisy.codes_UxM
    assert (after[before == 0] == 0).all()
    assert (after[:, 1] == before[:, 1]).all()  # one category: there is no other
    for column in (0, 2):
        known = before[:, column] > 0
        changed = before[known, column] != after[known, column]
        deviation = (0.3 * 0.7 / known.sum()) ** 0.5
        assert abs(changed.mean() - 0.3) < 4 * deviation
        assert after[known, column].min() == 1
        assert after[known, column].max() == profiles.sizes[column] - 1
    # all others are equally likely
    moved = after[(before[:, 2] == 2) & (after[:, 2] != 2), 2]
    shares = np.bincount(moved, minlength=6)[[1, 3, 4, 5]] / len(moved)
    assert np.abs(shares - 0.25).max() < 4 * (0.25 * 0.75 / len(moved)) ** 0.5
    np.testing.assert_array_equal(profiles.replaced(0, np.random.default_rng(1)).codes_UxM, before)
    everything = profiles.replaced(1, np.random.default_rng(1)).codes_UxM
    assert (everything[:, 2] != before[:, 2])[before[:, 2] > 0].all()
    with pytest.raises(UserError, match="found 1.5, expected 0 to 1"):
        profiles.replaced(1.5, np.random.default_rng(0))


def test_without_one_attribute():
    profiles = profiles_of(10)
    left = profiles.without("b")
    assert (left.names, left.sizes) == (("a", "c"), (4, 6))
    np.testing.assert_array_equal(left.codes_UxM, profiles.codes_UxM[:, [0, 2]])
    with pytest.raises(UserError, match="'d': found a, b, c"):
        profiles.without("d")


def test_an_attribute_of_numbers_takes_them_in_any_writing():
    attribute = Attribute("age", edges=(10.0, 20.0))
    values = ["9.9", 10, 10.0, " 19 ", "2e1", None, float("nan"), "inf", ""]
    np.testing.assert_array_equal(attribute.codes(values), [1, 2, 2, 2, 3, 0, 0, 0, 0])


def test_movielens_users(shared, tmp_path):
    from p5jax.data.building import build_dataset
    from p5jax.data.dataset import Dataset
    from p5jax.data.readers.recbole import read_recbole

    build_dataset(read_recbole(shared / "data" / "ml-100k"), tmp_path / "ml")
    dataset = Dataset.load(tmp_path / "ml")
    schema = fit_profiles(dataset, everybody(dataset), ProfileConfig())
    profiles = schema.profiles(dataset, fail)
    assert profiles.names == ("age", "gender", "occupation")  # zip codes are left out
    assert profiles.sizes == (9, 3, 22)
    lines = (shared / "data" / "ml-100k" / "ml-100k.user").read_text().splitlines()[1:]
    jobs = {key: job for key, _, _, job, _ in (line.split("\t") for line in lines)}
    codes = profiles.codes_UxM[:, 2]
    pairs = {(jobs[key], code) for key, code in zip(dataset.user_keys, codes, strict=True)}
    assert len(pairs) == len(set(jobs.values())) == 21
    assert profiles.codes_UxM.min() == 1
