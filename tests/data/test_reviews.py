"""The reviews table: the same for any parts, and written as one table would be."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from p5jax.data import reviews
from p5jax.data.building import build_dataset
from p5jax.data.dataset import Dataset
from p5jax.data.readers.raw import RawData
from p5jax.data.readers.synthetic import synthetic_raw
from p5jax.data.readers.texts import Texts

RAW = synthetic_raw(users=60, items=40, seed=0)


def with_texts_in_a_file() -> RawData:
    texts = RAW.texts.take(np.arange(len(RAW.user)))
    return dataclasses.replace(RAW, texts=Texts.of(texts, memory=0))


@pytest.mark.parametrize("memory", [2.0, 1e-9, 3e-5])
def test_parts_of_any_size_give_the_same_dataset(tmp_path, memory):
    build_dataset(with_texts_in_a_file(), tmp_path / "d", memory=memory)
    build_dataset(RAW, tmp_path / "whole")
    made, whole = Dataset.load(tmp_path / "d"), Dataset.load(tmp_path / "whole")
    assert made.manifest == whole.manifest


def test_row_groups_are_written_as_from_one_table(tmp_path, monkeypatch):
    monkeypatch.setattr(reviews, "BATCH", 50)
    build_dataset(RAW, tmp_path / "whole")
    monkeypatch.setattr(reviews, "ROW_GROUP", 128)
    build_dataset(with_texts_in_a_file(), tmp_path / "d", memory=3e-5)
    made, whole = (Dataset.load(tmp_path / name).reviews for name in ("d", "whole"))
    assert made.equals(whole)
    file = pq.ParquetFile(tmp_path / "d" / "reviews.parquet")
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert sizes[:-1] == [128] * (len(whole) // 128)
