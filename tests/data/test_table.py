"""Tables in any format: what is read is what a plain-Python writer wrote, or one clear line."""

from __future__ import annotations

import bz2
import datetime
import gzip
import json
import lzma
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table_files import FORMATS, Row, arrow, ipc, parquet, read, rows_of, write

import p5jax
from p5jax.core.errors import UserError
from p5jax.data.prepare import prepare, read_raw

UTC = datetime.UTC
FIELDS = ("user", "item", "rating", "timestamp", "text")
UNITS = {"second": 1, "millisecond": 10**3, "microsecond": 10**6, "nanosecond": 10**9}
PACK = {"": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


# --- any table in any format, against what was written ---

LETTERS = st.sampled_from("abzÄé日😀,;|\t\"'0 -_.:\\")
NAMES = st.text(LETTERS, max_size=5).map(lambda text: f"k{text}k")
KEYS = st.one_of(NAMES, st.integers(0, 9))
TEXTS = st.none() | st.text(st.sampled_from('ab"\n,\t;|é x'), max_size=12).map(lambda t: f"t{t}t")
MOMENTS = st.integers(1_000_000_000, 2_000_000_000)


@st.composite
def tables(draw) -> tuple[list[Row], str]:
    """Rows, and how their times are written."""
    key = draw(st.sampled_from([NAMES, st.integers(0, 9)]))
    other = draw(st.sampled_from([NAMES, st.integers(0, 9)]))
    ratings = st.none() | st.integers(1, 5)
    row = st.fixed_dictionaries(
        {"user": key, "item": other, "rating": ratings, "timestamp": MOMENTS, "text": TEXTS}
    )
    return draw(st.lists(row, min_size=1, max_size=6)), draw(st.sampled_from([*UNITS, "date"]))


def with_times(rows: list[Row], written: str) -> list[Row]:
    def time(seconds: int) -> Any:
        if written == "date":
            return datetime.datetime.fromtimestamp(seconds, UTC).isoformat()
        return seconds * UNITS[written]

    return [row | {"timestamp": time(row["timestamp"])} for row in rows]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    made=tables(),
    form=st.sampled_from([*FORMATS]),
    packed=st.sampled_from([*PACK]),
    names=st.sampled_from(["user_id item_id rating timestamp review", "user iid stars ts text"]),
)
def test_what_was_written_is_read_in_every_format(tmp_path, made, form, packed, names):
    rows, written = made
    renamed = [
        dict(zip(names.split(), (row[field] for field in FIELDS), strict=True))
        for row in with_times(rows, written)
    ]
    data = FORMATS[form](renamed)
    if not form.startswith(("arrow", "parquet")):
        data = PACK[packed](data)
    raw = read(write(tmp_path / "any.name", data))
    times = 1 if written == "date" else UNITS[written]
    expected = [
        (str(r["user"]), str(r["item"]), r["rating"], r["timestamp"] * times, r["text"])
        for r in rows
    ]
    assert rows_of(raw) == expected
    assert raw.time_unit == ("second" if written == "date" else written)


def test_tables_in_memory_and_in_files_become_the_same_dataset(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"uid": f"u{u}", "movieId": int(i), "score": int(rng.integers(1, 6)), "date": 10**9 + n}
        for n, (u, i) in enumerate((u, i) for u in range(6) for i in rng.permutation(8)[:6])
    ]
    table = arrow(rows)
    one = p5jax.prepare(table, tmp_path / "a", k_core=3)
    assert one.manifest["sources"][0]["path"] == "table in memory"
    moments = [datetime.datetime.fromtimestamp(row["date"], UTC) for row in rows]
    typed = table.set_column(3, "date", pa.array(moments, pa.timestamp("ns", "Europe/Paris")))
    pq.write_table(typed, tmp_path / "t.parquet")
    fingerprints = {one.fingerprint}
    for name, data in (("t.csv", FORMATS["comma"]), ("t.jsonl", FORMATS["json"])):
        path = write(tmp_path / name, data(rows))
        fingerprints.add(prepare("table", tmp_path / "b", interactions=path, k_core=3).fingerprint)
    path = tmp_path / "t.parquet"
    fingerprints.add(prepare("table", tmp_path / "b", interactions=path, k_core=3).fingerprint)
    assert len(fingerprints) == 1


def test_the_original_files_of_movielens_become_the_dataset_of_recbole(shared, tmp_path):
    source, folder = shared / "data" / "ml-100k", tmp_path / "recbole"
    folder.mkdir()
    first, *lines = (source / "ml-100k.inter").read_text().splitlines()[:3001]
    write(folder / "recbole.inter", "\n".join([first, *lines]))
    items = write(folder / "recbole.item", (source / "ml-100k.item").read_bytes())
    cells = [[str(int(float(cell))) for cell in line.split("\t")] for line in lines]
    expected = read_raw("recbole", folder=folder)
    header = ["userId", "movieId", "rating", "timestamp"]
    for name, sign, first in (
        ("u.data", "\t", []),
        ("ratings.dat", "::", []),
        ("ratings.csv", ",", [header]),
        ("any.txt", ",", []),
    ):
        path = write(tmp_path / name, "".join(f"{sign.join(row)}\r\n" for row in first + cells))
        columns = "user=1,item=2,rating=3,timestamp=4" if name == "any.txt" else ""
        raw = read(path, columns=columns, items=items)
        assert rows_of(raw) == rows_of(expected)
        assert raw.item_columns == expected.item_columns


# --- what people download ---


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (  # Yelp
            {"review_id": "r", "user_id": "u", "business_id": "b", "stars": 4.0, "text": "Good",
             "date": "2018-07-07 22:09:11"},
            ("u", "b", 4.0, 1531001351, "Good"),
        ),
        (  # Steam
            {"username": "u", "hours": 0.1, "product_id": "643980", "date": "2017-12-17",
             "text": "Good"},
            ("u", "643980", None, 1513468800, "Good"),
        ),
        (  # Goodreads
            {"user_id": "u", "book_id": "7", "rating": 5, "review_text": "Good",
             "date_added": "Thu Dec 07 00:15:53 -0800 2017"},
            ("u", "7", 5.0, 1512634553, "Good"),
        ),
        (  # RecTools
            {"user_id": 3, "item_id": 0, "weight": 2.5, "datetime": "2021-01-02"},
            ("3", "0", 2.5, 1609545600, None),
        ),
        (  # Amazon 2023, as a table
            {"user_id": "u", "asin": "a", "parent_asin": "p", "rating": 1.0, "text": "Bad",
             "timestamp": 1609545600123},
            ("u", "p", 1.0, 1609545600123, "Bad"),
        ),
    ],
)  # fmt: skip
def test_known_files_need_no_names_of_columns(tmp_path, line, expected):
    path = write(tmp_path / "f.json", json.dumps(line) + "\n")
    assert rows_of(read(path)) == [expected]


def test_items_and_users_come_from_tables_too(tmp_path):
    interactions = write(tmp_path / "i.csv", "uid,iid\n1,7\n1,8\n2,7\n")
    items = write(
        tmp_path / "games.json",
        "{'id': '7', 'app_name': 'A', 'title': 'Game, one', 'genres': ['Indie', 'Action'],"
        " 'price': 4.99}\n{'id': '9', 'title': 'No one plays it'}\n",
    )
    users = write(tmp_path / "users.csv", "user_id,nick,age\n2,Ann,31\n3,Bo,2\n")
    raw = read(interactions, items=items, users=users, user_columns={"name": "nick"})
    assert raw.item_columns["title"] == ["Game, one", None]
    assert raw.item_columns["categories"] == ["Indie | Action", None]
    assert raw.item_columns["price"] == ["4.99", None]
    assert raw.user_columns == {"age": [None, "31"], "name": [None, "Ann"]}
    assert raw.time_unit == "position"
    assert raw.understood["columns"] == "user from uid, item from iid (CSV)"
    given = read(interactions, items=items, item_columns="title=app_name")
    assert given.item_columns["title"] == ["A", None]


def test_globs_and_folders_are_read_in_order(tmp_path):
    folder = tmp_path / "log"
    (folder / "day=1").mkdir(parents=True)
    write(folder / "day=1" / "part-0.csv", "user,item\na,x\n")
    write(folder / "part-1.csv", "item,user\ny,b\n")
    write(folder / "_SUCCESS", "")
    write(folder / "README.md", "what this is\n")
    expected = [("a", "x", None, 0, None), ("b", "y", None, 1, None)]
    assert rows_of(read(folder)) == expected
    assert rows_of(read(str(folder / "**" / "*.csv"))) == expected
    assert read(folder).name == "log"
    write(folder / "more.parquet", parquet([{"user": "a", "item": "x"}]))
    with pytest.raises(
        UserError, match=r"log: found files of csv, parquet, expected a table .* of"
    ):
        read(folder)
    with pytest.raises(UserError, match=r"\*\.tsv: found no file of such a name, expected a table"):
        read(str(folder / "*.tsv"))


def test_a_folder_of_hugging_face_datasets(tmp_path):
    part = tmp_path / "saved" / "train"
    part.mkdir(parents=True)
    write(part / "state.json", "{}")
    write(part / "cache-1.arrow", b"no table")
    for n, user in enumerate("ab"):
        write(
            part / f"data-0000{n}-of-00002.arrow",
            ipc([{"user": user, "item": 5}], pa.ipc.new_stream),
        )
    assert [row[0] for row in rows_of(read(part))] == ["a", "b"]
    write(part.parent / "dataset_dict.json", "{}")
    with pytest.raises(UserError, match="found the parts train, expected one or more of"):
        read(part.parent)


def test_a_rating_outside_the_scale_is_named_in_its_own_file(tmp_path):
    first = write(tmp_path / "1.csv", "user,item,rating\n" + "a,x,1\na,y,2\na,z,3\n")
    second = write(tmp_path / "2.csv", "user,item,rating\n" + "b,x,1\nb,y,9\nb,z,3\n")
    with pytest.raises(UserError, match=r"2\.csv:3: found a rating of 9, expected 1 to 5"):
        prepare(
            "table", tmp_path / "d", interactions=[first, second], k_core=1, rating_scale=(1, 5)
        )
    assert not (tmp_path / "d").exists()
