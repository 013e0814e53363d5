"""Parquet files and arrays: what was written comes back, what was changed is seen."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p5jax.core.errors import UserError
from p5jax.core.tables import read_array, read_parquet, write_parquet

SCHEMA = pa.schema(
    [
        pa.field("user", pa.string(), nullable=False),
        pa.field("rank", pa.int32()),
        pa.field("tokens", pa.list_(pa.int32())),
    ]
)
TABLE = pa.table({"user": ["a", "b"], "rank": [1, None], "tokens": [[1, 2], []]}, SCHEMA)


def refused(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_table_comes_back_and_others_of_its_form(tmp_path):
    file = tmp_path / "a.parquet"
    write_parquet(file, TABLE)
    assert read_parquet(file, SCHEMA, "a table").equals(TABLE)
    wide = TABLE.set_column(0, "user", TABLE["user"].cast(pa.large_string()))
    wide = wide.set_column(1, "rank", TABLE["rank"].cast(pa.int64())).append_column("x", [[1, 2]])
    write_parquet(file, wide)
    assert read_parquet(file, SCHEMA, "a table").equals(wide)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE.drop_columns("rank"), "column 'rank' is missing, expected a table"),
        (TABLE.append_column("rank", [[1, 2]]), "column 'rank' is twice, expected a table"),
        (
            TABLE.set_column(1, "rank", pa.array([1.0, 2.0])),
            "found column 'rank' of type double, expected int32",
        ),
        (
            TABLE.set_column(2, "tokens", pa.array([["1"], []])),
            "found column 'tokens' of type list<element: string>, expected list",
        ),
        (
            TABLE.set_column(0, "user", pa.array(["a", None])),
            "found no value in 1 rows of column 'user', expected one in each",
        ),
    ],
)
def test_other_columns_are_named(tmp_path, table, message):
    file = tmp_path / "a.parquet"
    pq.write_table(table, file)
    assert f"{file}: {message}" in refused(read_parquet, file, SCHEMA, "a table")


def test_text_that_is_not_utf8(tmp_path):
    file = tmp_path / "a.parquet"
    broken = pa.array([b"\xff\xfe", b"b"]).view(pa.string())
    pq.write_table(TABLE.set_column(0, "user", broken), file)
    assert "UTF8" in refused(read_parquet, file, SCHEMA, "a table").upper()


def test_every_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    file, damaged = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write_parquet(file, TABLE)
    content, seen = file.read_bytes(), 0
    for place in range(0, len(content), 13):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        damaged.write_bytes(changed)
        try:
            table = read_parquet(damaged, SCHEMA, "a table")
        except UserError:
            seen += 1
        else:
            assert table.select(SCHEMA.names).to_pylist() == TABLE.to_pylist()
    assert seen > 20


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_a_truncated_table(tmp_path, share):
    file = tmp_path / "a.parquet"
    write_parquet(file, TABLE)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    assert "expected a table" in refused(read_parquet, file, SCHEMA, "a table")
    file.unlink()
    assert "not found, expected a table" in refused(read_parquet, file, SCHEMA, "a table")


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def test_arrays(tmp_path):
    file = tmp_path / "a.npy"
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(file, array)
    np.testing.assert_array_equal(read_array(file, np.float32, (2, None), "vectors"), array)
    message = refused(read_array, file, np.float32, (3, None), "vectors")
    assert message.endswith("found float32 of shape (2, 3), expected float32 of shape (3, any)")
    assert "float32" in refused(read_array, file, np.float64, (2, 3), "vectors")
    either = read_array(file, (np.float64, np.float32), (2, 3), "vectors")
    np.testing.assert_array_equal(either, array)
    message = refused(read_array, file, (np.float64, np.float16), (2, 3), "vectors")
    assert "found float32 of shape (2, 3), expected float64 or float16 of shape (2, 3)" in message
    np.save(file, array * np.nan)
    assert "not finite" in refused(read_array, file, np.float32, (2, 3), "vectors")
    for content in (
        b"",
        b"\x93NUMPY",
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2000000000, 3), }"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3), }"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"cos\nsystem\n."),
        npy("(" * 5000),
        npy("9" * 5000),
    ):
        file.write_bytes(content)
        assert "vectors" in refused(read_array, file, np.float32, (2, 3), "vectors")
