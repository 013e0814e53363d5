"""The RecBole reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from p5jax.core.errors import UserError
from p5jax.data.readers.recbole import read_recbole

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def write(tmp_path: Path, **files: str) -> Path:
    folder = tmp_path / "toy"
    folder.mkdir(exist_ok=True)
    for kind, text in files.items():
        (folder / f"toy.{kind}").write_text(text, encoding="utf-8")
    return folder


def test_reads_all_three_files(tmp_path):
    folder = write(
        tmp_path,
        inter=INTER + "b\t20\t4\t100.0\na\t10\t2.5\t50\nb\t10\t1\t7\n",
        user="user_id:token\tage:float\tcolour:token_seq\na\t31\tred green\nzz\t1\tno\n",
        item="item_id:token\tmovie_title:token_seq\tgenre:token_seq\tlisted_price:float\n"
        "10\tA Film\tDrama Noir\t3.5\n99\tOther\tX\t1\n",
    )
    raw = read_recbole(folder)
    assert (raw.name, raw.format, raw.time_unit) == ("toy", "recbole", "second")
    assert (raw.user_keys, raw.item_keys) == (["b", "a"], ["20", "10"])
    np.testing.assert_array_equal(raw.user, [0, 1, 0])
    np.testing.assert_array_equal(raw.item, [0, 1, 1])
    np.testing.assert_array_equal(raw.rating, [4, 2.5, 1])
    np.testing.assert_array_equal(raw.timestamp, [100, 50, 7])
    assert raw.user_columns == {"age": [None, "31"], "colour": [None, "red green"]}
    assert raw.item_columns["title"] == [None, "A Film"]
    assert raw.item_columns["categories"] == [None, "Drama Noir"]
    assert raw.item_columns["price"] == [None, "3.5"]
    assert raw.item_columns["brand"] == [None, None]
    assert raw.source_numbers == ["20", "10"]
    assert raw.headline.null_count == raw.text.null_count == 3


def test_without_ratings_and_times_the_lines_order(tmp_path):
    folder = write(tmp_path, inter="item_id:token\tuser_id:token\nx\tu\ny\tu\n")
    raw = read_recbole(folder)
    assert np.isnan(raw.rating).all()
    assert np.diff(raw.timestamp).tolist() == [1]
    assert raw.time_unit == "position"
    assert raw.source_numbers is None


def test_the_only_inter_file_of_another_name_is_taken(tmp_path):
    (tmp_path / "other.inter").write_text(INTER + "u\ti\t3\t1\n")
    assert read_recbole(tmp_path).name == "other"
    (tmp_path / "second.inter").write_text(INTER)
    with pytest.raises(UserError, match=r"found other\.inter, second\.inter, expected"):
        read_recbole(tmp_path)


def test_columns_that_would_clash_are_renamed(tmp_path):
    folder = write(
        tmp_path,
        inter=INTER + "u\ti\t3\t1\n",
        user="user_id:token\tkey:token\tname:token\nu\tk\tAnn\n",
    )
    assert read_recbole(folder).user_columns == {"key_": ["k"], "name": ["Ann"]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u\ti\tabc\t1", r"field 'rating': found 'abc', expected a number"),
        ("u\ti\t3\tnan", r"field 'timestamp': found 'nan', expected a number"),
        ("u\ti\t3\t1e40", r"field 'timestamp': found 1e\+40"),
        ("u\ti\t3", r"found 3 fields, expected 4"),
        ("\ti\t3\t1", r"field 'user_id': found an empty value"),
    ],
)
def test_a_bad_line_is_named_or_skipped_and_counted(tmp_path, line, message):
    folder = write(tmp_path, inter=INTER + f"v\tj\t3\t1\n{line}\nw\tj\t2\t1\n")
    with pytest.raises(UserError, match=rf"toy\.inter:3: {message}"):
        read_recbole(folder)
    raw = read_recbole(folder, skip_bad_lines=True)
    assert (raw.skipped_lines, raw.user_keys) == (1, ["v", "w"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user_id:token\trating:float\nu\t3\n", r"toy\.inter:1: field 'item_id' is missing"),
        ("user_id\titem_id:token\nu\ti\n", r"toy\.inter:1: found header column 'user_id'"),
        ("user_id:text\titem_id:token\nu\ti\n", r"found header column 'user_id:text'"),
        ("", r"toy\.inter: found an empty file"),
    ],
)
def test_a_bad_header_is_an_error_even_when_skipping(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_recbole(write(tmp_path, inter=text), skip_bad_lines=True)


def test_a_missing_folder_or_file(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_recbole(tmp_path / "none")
    with pytest.raises(UserError, match=r"found no \.inter file, expected"):
        read_recbole(tmp_path)


def test_ml_100k(shared):
    raw = read_recbole(shared / "data/ml-100k")
    assert (len(raw.user_keys), len(raw.item_keys), len(raw.user)) == (943, 1682, 100_000)
    assert sorted(raw.user_columns) == ["age", "gender", "occupation", "zip_code"]
    user = raw.user_keys.index("1")
    assert raw.user_columns["occupation"][user] == "technician"
    assert raw.item_columns["title"][raw.item_keys.index("1")] == "Toy Story"
