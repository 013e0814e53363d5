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
    assert (raw.name, raw.format, raw.time_unit) == ("toy", "recbole", "unknown unit")
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
    assert raw.understood["times"] == "no column of times: the order of the lines counts"
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
        ("u\ti\t3\tnan", r"field 'timestamp': found 'nan', a missing value, expected a time"),
        ("u\ti\t3\t1e40", r"field 'timestamp': found '1e40', expected a time"),
        ("u\ti\t1e999\t1", r"field 'rating': found '1e999', expected a number"),
        ("u\ti\t1_0\t1", r"field 'rating': found '1_0', expected a number"),
        ("u\ti\t3", r"found 3 fields, expected 4"),
        ("\ti\t3\t1", r"field 'user_id': found an empty value, .* --skip-bad-lines"),
        ("u\tnan\t3\t1", r"field 'item_id': found 'nan', expected a token"),
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
        ("user_id:token\titem_id:token\tuser_id:float\nu\ti\t1\n", r"column 'user_id' twice"),
    ],
)
def test_a_bad_header_is_an_error_even_when_skipping(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_recbole(write(tmp_path, inter=text), skip_bad_lines=True)


def times_of(folder: Path) -> dict[str, list[str]]:
    """Each user's items in the order of time."""
    raw = read_recbole(folder)
    rows = sorted(zip(raw.user, raw.timestamp, raw.item, strict=True))
    found: dict[str, list[str]] = {}
    for user, _, item in rows:
        found.setdefault(raw.user_keys[user], []).append(raw.item_keys[item])
    return found


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("timestamp:float", ("1700000000.8", "1700000000.7", "1700000000.1")),
        ("timestamp:float", ("0.8", "0.7", "0.1")),
        (
            "timestamp:token",
            ("2020-01-01 10:00:00+02:00", "2020-01-01 09:00:00+03:00", "2019-01-01"),
        ),
        ("time:float", ("1600000002", "1600000001", "1600000000")),
        ("ts:float", ("1600000002000", "1600000001000", "1600000000000")),
        ("event_time:token", ("1/31/2020 1:00 PM", "1/31/2020 11:00 AM", "1/2/2020")),
        ("Date:token", ("2020-03-01", "2020-02-29", "2020-02-28")),
    ],
)
def test_times_of_any_kind_order_the_items(tmp_path, name, cells):
    rows = "".join(f"u\t{item}\t{cell}\n" for item, cell in zip("cba", cells, strict=True))
    folder = write(tmp_path, inter=f"user_id:token\titem_id:token\t{name}\n{rows}")
    assert times_of(folder) == {"u": ["a", "b", "c"]}
    column = name.partition(":")[0]
    assert column in read_recbole(folder).understood["columns"]


def test_an_exact_name_comes_before_a_near_one_and_near_ones_are_told(tmp_path):
    item = (
        "item_id:token\tbrand_name:token\tdiscount_price:float\titem_title:token_seq\tprice:float\t"
        "sub_class:token\tcategories:token_seq\nx\tAcme\t0.99\tTea\t10.00\ts\tc1\n"
        "y\tnan\tNA\tNone\tNULL\tnull\t<NA>\n"
    )
    raw = read_recbole(write(tmp_path, inter=INTER + "u\tx\t1\t1\nu\ty\t1\t1\n", item=item))
    assert raw.item_columns == {
        "title": ["Tea", None],
        "brand": ["Acme", None],
        "categories": ["c1", None],
        "price": ["10.00", None],
    }
    assert raw.understood["items"] == (
        "2 of 2 items are in toy.item, with title from item_title, brand from brand_name,"
        " categories, price; not used: discount_price, sub_class"
    )


def test_columns_that_are_not_used_are_told(tmp_path):
    inter = "user_id:token\titem_id:token\tlabel:float\ttime:float\nu\ti\t1\t5\n"
    told = read_recbole(write(tmp_path, inter=inter)).understood["columns"]
    assert told == "user_id, item_id, time as the timestamp; not used: label"


def test_the_quotes_of_csv_are_none_of_the_text(tmp_path):
    item = (
        '"item_id:token"\t"title:token_seq"\nx\t"Say ""Hi"""\ny\t"with\ta tab"\nz\t12" disc\n'
        'v\t"open\nw\t"A" and "B"\n'
    )
    inter = INTER + "".join(f"u\t{key}\t1\t1\n" for key in "xyzvw")
    raw = read_recbole(write(tmp_path, inter=inter, item=item))
    assert raw.item_columns["title"] == [
        'Say "Hi"',
        "with a tab",
        '12" disc',
        '"open',
        '"A" and "B"',
    ]


def test_rows_know_their_lines_behind_blank_and_skipped_ones(tmp_path):
    folder = write(tmp_path, inter=INTER + "\nu\ti\t1\t1\nu\t\t1\t2\n\nu\tj\t1\t3\n")
    assert read_recbole(folder, skip_bad_lines=True).line.tolist() == [3, 6]


def test_missing_ratings_are_none_and_missing_attributes_too(tmp_path):
    folder = write(
        tmp_path,
        inter=INTER + "u\ti\tnan\t1\nu\tj\t\t2\nu\tk\t3\t3\n",
        user="user_id:token\tjob:token\tcity:token\nu\tnone\tNaN\n",
    )
    raw = read_recbole(folder)
    assert np.isnan(raw.rating).tolist() == [True, True, False]
    assert raw.user_columns == {"job": ["none"], "city": [None]}  # none is a job in MovieLens


@pytest.mark.parametrize(
    ("inter", "item", "keys"),
    [
        (("0.0", "12.0"), ("0", "12"), ["0", "12"]),
        (("0", "12"), ("0.0", "12.0"), ["0", "12"]),
        (("12.0", "12", "7"), ("7", "12"), ["12", "7"]),
        (("12.0", "1.5"), ("12.0", "1.5"), ["12.0", "1.5"]),  # no numbers of items
    ],
)
def test_keys_such_as_12_and_12_point_0_are_one(tmp_path, inter, item, keys):
    rows = "".join(f"u\t{key}\t1\t1\n" for key in inter)
    titles = "".join(f"{key}\tTitle {key.removesuffix('.0')}\n" for key in item)
    raw = read_recbole(
        write(tmp_path, inter=INTER + rows, item="item_id:token\ttitle:token\n" + titles)
    )
    assert raw.item_keys == keys
    found = [raw.item_columns["title"][i].removeprefix("Title ") for i in raw.item]
    assert found == [key.removesuffix(".0") for key in inter]
    assert ("keys" in raw.understood) == (keys[0] not in inter or len(keys) < len(inter))


def test_metadata_that_matches_few_is_a_warning_and_none_an_error(tmp_path):
    inter = INTER + "".join(f"u\t{key}\t1\t1\n" for key in "abcd")
    header = "item_id:token\ttitle:token\n"
    raw = read_recbole(write(tmp_path, inter=inter, item=header + "a\tA\nx\tX\ny\tY\n"))
    told = raw.understood["items"]
    assert told.startswith(
        "warning: fewer than half match: items such as b, c, d, where toy.item has x, y"
    )
    assert "1 of 4 items" in told
    folder = write(tmp_path, inter=inter, item=header + "A\tA\nB\tB\nC\tC\nD\tD\n")
    with pytest.raises(
        UserError, match=r"toy\.item: found none of the 4 items .* a, b, c, .* A, B, C"
    ):
        read_recbole(folder)


def test_no_line_that_is_left_is_an_error(tmp_path):
    folder = write(tmp_path, inter=INTER + "u\ti\tx\t1\n")
    with pytest.raises(
        UserError, match=r"no line is left of 1; the first is .*toy\.inter:2: field"
    ):
        read_recbole(folder, skip_bad_lines=True)
    folder = write(tmp_path, inter=INTER + "u\ti\tx\t1\nu\ti\t1\t1\n")
    told = read_recbole(folder, skip_bad_lines=True).understood["lines"]
    assert told.startswith("warning: 1 are left out, the first is ")


def test_a_missing_folder_or_file(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_recbole(tmp_path / "none")
    with pytest.raises(UserError, match=r"found no \.inter file, expected"):
        read_recbole(tmp_path)
    (tmp_path / "toy.inter.gz").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"found toy\.inter\.gz, expected .*\.inter \(gzip or not\)"
    ):
        read_recbole(tmp_path)


def test_ml_100k(shared):
    raw = read_recbole(shared / "data/ml-100k")
    assert (len(raw.user_keys), len(raw.item_keys), len(raw.user)) == (943, 1682, 100_000)
    assert sorted(raw.user_columns) == ["age", "gender", "occupation", "zip_code"]
    user = raw.user_keys.index("1")
    assert raw.user_columns["occupation"][user] == "technician"
    assert raw.item_columns["title"][raw.item_keys.index("1")] == "Toy Story"
