"""A split by time, on random tables: nothing is lost or comes too early, ties stay together."""

from __future__ import annotations

import datetime
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_building import prepared, raw_of

from p5jax.cli.main import main
from p5jax.core.errors import UserError
from p5jax.data.building import build_dataset
from p5jax.data.dataset import SPLITS, TEST, TRAIN, VALIDATION, Dataset
from p5jax.data.readers.synthetic import synthetic_raw
from p5jax.data.splits import by_time
from p5jax.data.time_split import LEAVE_ONE_OUT, TimeSplit

TIMES = st.lists(st.integers(-5, 30), min_size=3, max_size=60)
SHARES = st.tuples(st.integers(1, 8), st.integers(1, 4), st.integers(1, 4))


@given(TIMES, SHARES)
def test_shares_cut_time_and_all_rows_of_a_time_are_on_one_side(times, weights):
    time = np.array(times)
    shares = tuple(weight / sum(weights) for weight in weights)
    ordered = sorted(times)
    wanted = [round(end * len(times)) for end in (shares[0], shares[0] + shares[1])]
    first, second = (ordered[min(place, len(times) - 1)] for place in wanted)
    try:
        cuts = TimeSplit(shares=shares).cuts(time, "second")
    except UserError:  # too many rows of one time for three parts
        assert first == min(times) or first == second
        return
    assert cuts == (first, second)
    split = by_time(time, cuts)
    expected = [TRAIN if t < first else VALIDATION if t < second else TEST for t in times]
    assert split.tolist() == expected
    assert set(expected) == {TRAIN, VALIDATION, TEST}
    assert time[split == TRAIN].max() < time[split == VALIDATION].min()
    assert time[split == VALIDATION].max() < time[split == TEST].min()
    assert (split == TRAIN).sum() <= wanted[0]  # fewer where rows share the time of the cut


PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 12)), min_size=8)


@settings(deadline=None, max_examples=25)
@given(PAIRS)
def test_a_prepared_table_has_each_row_once_and_histories_are_earlier(tmp_path_factory, pairs):
    earliest = {}
    for user, item, time in pairs:
        earliest[user, item] = min(time, earliest.get((user, item), time))
    rows = [(f"u{u}", f"i{i}", 4.0, t) for (u, i), t in earliest.items()]
    out = tmp_path_factory.mktemp("table") / "d"
    if {(t >= 4) + (t >= 8) for *_, t in rows} != {0, 1, 2}:
        with pytest.raises(UserError, match="found no .* rows"):
            build_dataset(raw_of(rows), out, k_core=1, split="time:4,8")
        return
    build_dataset(raw_of(rows), out, k_core=1, split="time:4,8")
    data = Dataset.load(out)
    found = {
        (data.user_keys[r["user"]], data.item_keys[r["item"]], r["timestamp"]): r["split"]
        for r in data.interactions.to_pylist()
    }
    assert len(found) == data.interactions.num_rows
    assert found == {(u, i, t): (t >= 4) + (t >= 8) for u, i, _, t in rows}
    for split, cut in (("validation", 4), ("test", 8)):
        users = data.held_out_users(split).tolist()
        assert [data.user_keys[u] for u in users] == [
            key
            for key in data.user_keys
            if any(k[0] == key and SPLITS[s] == split for k, s in found.items())
        ]
        for user in users:
            key = data.user_keys[user]
            mine = sorted((t, i) for (u, i, t) in found if u == key)
            before = {i for t, i in mine if t < cut}
            assert {data.item_keys[i] for i in data.history(user, split)} == before
            first = min(t for t, _ in mine if t >= cut)
            assert (first, data.item_keys[data.target(user, split)]) in mine
    for user in range(data.num_users):
        known = {i for (u, i, t) in found if u == data.user_keys[user] and t < 4}
        assert {data.item_keys[i] for i in data.training_sequences[user]} == known
        assert {data.item_keys[i] for i in data.history(user, "train")} == known


def test_counts_of_what_is_held_out_and_cold(tmp_path):
    rows = [("u", "a", 4.0, 0), ("v", "a", 4.0, 1), ("v", "b", 3.0, 2)]
    rows += [("u", "b", 4.0, 10), ("u", "c", 4.0, 11), ("w", "a", 2.0, 12)]
    rows += [("v", "c", 4.0, 20), ("w", "b", 4.0, 21), ("x", "d", 1.0, 22), ("x", "a", 1.0, 23)]
    counts = prepared(raw_of(rows), tmp_path, k_core=1, split="time:10,20").manifest["counts"]
    expected = {"training_interactions": 3, "validation_interactions": 3, "validation_users": 2}
    expected |= {"validation_cold": 2, "validation_cold_users": 1, "validation_cold_items": 1}
    expected |= {"test_interactions": 4, "test_users": 3, "test_cold": 4}
    expected |= {"test_cold_users": 2, "test_cold_items": 2}
    assert expected.items() <= counts.items()


@pytest.mark.parametrize("unit", ["second", "millisecond", "microsecond", "nanosecond"])
def test_dates_are_moments_of_utc_in_the_unit_of_the_times(unit):
    per_second = {"second": 1, "millisecond": 1e3, "microsecond": 1e6, "nanosecond": 1e9}[unit]
    utc = datetime.UTC
    start = datetime.datetime(1970, 1, 1, tzinfo=utc).timestamp()
    after = datetime.datetime(2016, 7, 1, 12, 30, tzinfo=utc).timestamp()
    split = TimeSplit.read("time:1970-01-01,2016-07-01T14:30+02:00")
    wide = np.array([-1, 0, np.iinfo(np.int64).max])
    assert split.cuts(wide, unit) == (int(start * per_second), int(after * per_second))
    assert TimeSplit.read("time:0, 7").cuts(np.arange(-1, 9), unit) == (0, 7)


@pytest.mark.parametrize(
    "text",
    [
        *("", "time", "time:", "leave_one_out", "time:.8/.2", "time:.8/.1/.2", "time:1/0/0"),
        *("time:a/b/c", "time:nan/.5/.5", "time:-.5/1/.5", "time:2016-01-01", "time:2016-01-01,x"),
        *("time:2016-13-01,2017-01-01", "time:1,2,3", "time:1e9,2e9", f"time:{'9' * 5000},1"),
    ],
)
def test_what_is_no_split_is_refused_in_one_line(text, tmp_path, capsys):
    status = main(["data", "prepare", "synthetic", "--out", str(tmp_path / "d"), "--split", text])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    assert re.search("split: found .*expected", line)
    assert not (tmp_path / "d").exists()
    assert TimeSplit.read(LEAVE_ONE_OUT) is None


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("time:2030-01-01,2031-01-01", "found no validation rows .* cuts at 2030-01-01 and 2031"),
        ("time:2016-01-01,2015-01-01", "expected the earlier one first"),
        ("time:0,1000000000", "found no training rows"),
        (f"time:0,{10**30}", "found no training rows"),
    ],
)
def test_a_part_without_rows_is_refused(tmp_path, split, message):
    with pytest.raises(UserError, match=f"split: .*{message}"):
        build_dataset(synthetic_raw(users=30, items=40, seed=0), tmp_path / "d", split=split)
    assert not (tmp_path / "d").exists()


def test_a_source_without_times_or_dates_says_so():
    for unit, message in (("position", "a source without times"), ("day", "does not tell dates")):
        with pytest.raises(UserError, match=message):
            TimeSplit.read("time:2016-01-01,2016-02-01").cuts(np.arange(9), unit)


def test_leave_one_out_is_prepared_as_before(tmp_path):
    raw = synthetic_raw(users=60, items=40, seed=0)
    build_dataset(raw, tmp_path / "a")
    build_dataset(raw, tmp_path / "b", split=LEAVE_ONE_OUT)
    one, two = Dataset.load(tmp_path / "a"), Dataset.load(tmp_path / "b")
    assert one.fingerprint == two.fingerprint
    assert one.manifest == two.manifest
    assert one.cuts is None
    assert "cuts" not in one.manifest["protocol"]


def test_prepare_prints_what_is_held_out(tmp_path, capsys):
    out = str(tmp_path / "d")
    given = ["--users", "60", "--items", "40", "--split", "time:.8/.1/.1"]
    assert main(["data", "prepare", "synthetic", "--out", out, *given]) == 0
    said = capsys.readouterr().out
    counts = Dataset.load(out).manifest["counts"]
    for name in ("test_interactions", "test_users", "test_cold", "test_cold_users"):
        assert re.search(rf"^{name} +{counts[name]}$", said, re.MULTILINE)


@pytest.mark.parametrize("cuts", [[5], "4,8", [8, 4], [4, 8.0], [True, 8], [4, 10**30], {}])
def test_cuts_of_a_manifest_that_are_none_are_refused(world, cuts):
    protocol = world.manifest["protocol"] | {"cuts": cuts}
    tables = {name: getattr(world, name) for name in ("users", "items", "interactions", "reviews")}
    other = Dataset(world.path, world.manifest | {"protocol": protocol}, tables)
    with pytest.raises(UserError, match=r"manifest.json: protocol.cuts: found .*two times"):
        assert other.cuts
