"""Pairs that were counted once are what is counted now, and no run notices the difference."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from p5jax.cli.main import main
from p5jax.core.errors import UserError
from p5jax.data.building import build_dataset
from p5jax.data.dataset import Dataset
from p5jax.data.readers.synthetic import synthetic_raw
from p5jax.memory import stored_pairs as stored
from p5jax.memory.neighbours import pairs
from p5jax.memory.stored_pairs import count_pairs, stored_pairs, write_rows


@pytest.fixture
def data(world, tmp_path, monkeypatch) -> Dataset:
    """A copy of the world, whose pairs go to files of 25 rows."""
    monkeypatch.setattr(stored, "ROWS", 25)
    return Dataset.load(shutil.copytree(world.path, tmp_path / "data"))


def same(one, two) -> bool:
    names = ("indptr", "indices", "data")
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in names)


def test_stored_pairs_are_counted_pairs_bit_for_bit(data):
    assert stored_pairs(data) is None
    folder = count_pairs(data, report=lambda line: None)
    names = [f"rows-{start}.parquet" for start in range(0, data.num_items, 25)]
    assert sorted(file.name for file in folder.iterdir()) == sorted(["manifest.json", *names])
    counted = pairs(data)
    assert counted.nnz > 1000
    assert same(stored_pairs(data), counted)


@pytest.mark.parametrize("flush", [1, 100])
def test_sums_are_exact_in_any_order(world, monkeypatch, flush):
    """Bit for bit the same however many pairs are added up at a time."""
    expected = pairs(world)
    monkeypatch.setattr("p5jax.memory.histories.PAIRS_AT_ONCE", flush)
    assert same(pairs(world), expected)


def test_some_rows_are_those_of_all(world):
    whole = pairs(world).toarray()
    for rows in (range(0, 0), range(3, 4), range(10, 60), range(60)):
        expected = np.zeros_like(whole)
        expected[rows.start : rows.stop] = whole[rows.start : rows.stop]
        assert np.array_equal(pairs(world, rows).toarray(), expected)


def test_an_interrupted_count_goes_on_and_counts_only_what_is_missing(data):
    folder = count_pairs(data, report=lambda line: None)
    kept, lost = folder / "rows-0.parquet", folder / "rows-25.parquet"
    before, bytes_before = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    (folder / ".rows-25.parquet.partial").write_text("half")
    assert stored_pairs(data) is None
    assert main(["data", "count-pairs", str(data.path)]) == 0
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == bytes_before
    assert not list(folder.glob(".*partial"))


def test_pairs_of_another_dataset_are_refused(data, tmp_path):
    build_dataset(synthetic_raw(users=60, items=40, seed=1), tmp_path / "other")
    other = Dataset.load(tmp_path / "other")
    shutil.copytree(count_pairs(other, report=lambda line: None), data.path / "pairs")
    (data.path / "pairs" / "rows-50.parquet").touch()
    with pytest.raises(UserError, match=r"pairs/manifest.json: found dataset = .*, expected"):
        stored_pairs(data)


def test_a_damaged_folder_is_one_line(data, capsys):
    folder = count_pairs(data, report=lambda line: None)
    file = folder / "rows-25.parquet"
    table, whole = pq.read_table(file), file.read_bytes()

    def refused(match):
        with pytest.raises(UserError, match=match):
            stored_pairs(data)

    file.write_bytes(whole[:-9])
    refused("rows-25.parquet: found .*; expected pairs; delete it")
    row = {"row": 30, "item": 1, "sum": 0.5}
    for change in (
        *({"row": 24}, {"row": 50}, {"row": -1}, {"item": -1}, {"item": data.num_items}),
        *({"sum": 0.0}, {"sum": np.nan}, {"sum": np.inf}, None),
    ):
        rows = [row | change] if change else [row, row]  # None: the same pair twice
        pq.write_table(table.from_pylist(rows, table.schema), file)
        refused("rows-25.parquet: found other pairs than of rows 25 to 49, in order, and of 60")
    write_rows(data, file, range(25, 50))
    assert file.read_bytes() == whole
    (folder / "manifest.json").write_text("{}")
    refused("manifest.json: found no format_version, expected what p5jax data count-pairs writes")
    assert main(["data", "count-pairs", str(data.path)]) == 2
    assert "manifest.json: found no format_version" in capsys.readouterr().err
