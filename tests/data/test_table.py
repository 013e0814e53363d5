"""Tables in any format: what is read is what a plain-Python writer wrote, or one clear line."""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import io
import json
import lzma
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import p5jax
from p5jax.core.errors import UserError
from p5jax.data.prepare import prepare, read_raw
from p5jax.data.readers import lines, table
from p5jax.data.readers.raw import RowCollector

UTC = datetime.UTC
FIELDS = ("user", "item", "rating", "timestamp", "text")
UNITS = {"second": 1, "millisecond": 10**3, "microsecond": 10**6, "nanosecond": 10**9}
PACK = {"": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
Row = dict[str, Any]


def rows_of(raw) -> list[tuple]:
    """What a reader understood, a tuple for each interaction."""
    return [
        (
            raw.user_keys[user],
            raw.item_keys[item],
            None if math.isnan(rating) else rating,
            time,
            text,
        )
        for user, item, rating, time, text in zip(
            raw.user.tolist(),
            raw.item.tolist(),
            raw.rating.tolist(),
            raw.timestamp.tolist(),
            raw.text.to_pylist(),
            strict=True,
        )
    ]


def read(path: Any, **options: Any):
    return read_raw("table", interactions=path, **options)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


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


def separated(rows: list[Row], delimiter: str, quoting: int, ending: str) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=ending)
    writer.writerow(rows[0])
    writer.writerows([["" if cell is None else cell for cell in row.values()] for row in rows])
    return out.getvalue().encode()


def arrow(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows)


def parquet(rows: list[Row]) -> bytes:
    out = io.BytesIO()
    pq.write_table(arrow(rows), out, row_group_size=2)
    return out.getvalue()


def ipc(rows: list[Row], new) -> bytes:
    sink = pa.BufferOutputStream()
    table = arrow(rows)
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue().to_pybytes()


FORMATS = {
    "comma": lambda rows: separated(rows, ",", csv.QUOTE_MINIMAL, "\n"),
    "all quoted": lambda rows: separated(rows, ",", csv.QUOTE_ALL, "\r\n"),
    "mark": lambda rows: b"\xef\xbb\xbf" + separated(rows, ",", csv.QUOTE_MINIMAL, "\r\n"),
    "semicolon": lambda rows: separated(rows, ";", csv.QUOTE_NONNUMERIC, "\r\n"),
    "bar": lambda rows: separated(rows, "|", csv.QUOTE_MINIMAL, "\n"),
    "tab": lambda rows: separated(rows, "\t", csv.QUOTE_ALL, "\n"),
    "json": lambda rows: "".join(json.dumps(row) + "\n" for row in rows).encode(),
    "literal": lambda rows: "".join(f"{row!r}\n" for row in rows).encode(),
    "parquet": parquet,
    "arrow file": lambda rows: ipc(rows, pa.ipc.new_file),
    "arrow stream": lambda rows: ipc(rows, pa.ipc.new_stream),
}


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


# --- what is wrong is one line ---

HEAD = "user,item,rating,timestamp\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found an empty file, expected a table of interactions"),
        (HEAD, "found no row, expected a table of interactions"),
        (HEAD + "u,i,3\n", r":2: found 3 cells, expected 4"),
        (HEAD + "u,i,3,1\n\n,i,3,1\n", r":4: field 'user': found an empty value"),
        (HEAD + "u,nan,3,1\n", r":2: field 'item': found 'nan'"),
        (HEAD + "u,i,good,1\n", r":2: field 'rating': found 'good', expected a number"),
        (HEAD + "u,i,inf,1\n", r":2: field 'rating': found 'inf', expected a number"),
        (HEAD + "u,i,3,\n", r":2: field 'timestamp': found '', a missing value"),
        (HEAD + "u,i,3,noon\n", r":2: field 'timestamp': found 'noon', expected a time"),
        (HEAD + "u,i,3,1\nu,j,3,2020-01-01\n", r":3: .*found '2020-01-01', expected a number as"),
        (HEAD + 'u,"i,3,1\nu,j,3,2\n', r":2: found a quote without its other, expected CSV"),
        (HEAD + 'u,"i"x,3,1\n', r":2: found a quote without its other, expected CSV"),
        (HEAD.encode() + b"u,caf\xe9,3,1\n", r":2: found byte 0xe9, expected UTF-8"),
        ("user,user,item\na,b,c\n", r":1: found column 'user' twice"),
        ("who,item\nu,i\n", r"no column of users among who, item, .*--columns user=NAME says"),
        ("1,2,3\n4,5,6\n", r"no column of users among 1, 2, 3, .*or its number where"),
        ('[{"user": "u", "item": "i"}]', r"found a JSON list, expected an object a line"),
        ('{"user": "u"}\n', "no column of items among user"),
        ('{"user": "u", "item": "i"}\n{"user": "u"}\n', r":2: field 'item': found an empty value"),
        ('{"user": true, "item": "i"}\n', r":1: field 'user': found True, expected a token"),
        ('{"user": {"a": 1}, "item": "i"}\n', r":1: field 'user': found {'a': 1}"),
        ('{"user": "\\ud800", "item": "i"}\n', r":1: field 'user': found '\\ud800'"),
        ('{"user": "u", "item": 5, "rating": [1]}\n', r":1: field 'rating': found \[1\]"),
        ('{"user": "u", "item": 5, "text": {}}\n', r":1: field 'text': found {}, expected a text"),
        ('{"user": 1e400, "item": 5}\n', r":1: field 'user': found Decimal"),
        ('{"user": 1e999999999, "item": 5}\n', r":1: field 'user': found Decimal"),
        ('{"user": NaN, "item": 5}\n', r":1: field 'user': found nan"),
        ('{"user": "u", "item": 5\n', r":1: found a line that is neither JSON .* nor a Python"),
        (b"PAR1 and no more", r"f: found .*; expected a table of interactions"),
        (b"ARROW1 and no more", r"f: found .*; expected a table of interactions"),
        (b"\xff\xff\xff\xffxxxxxxxx", r"f: found .*; expected a table of interactions"),
        (parquet([{"user": None, "item": 5}]), r"f:1: field 'user': found an empty value"),
        (gzip.compress(HEAD.encode() * 50, mtime=0)[:-9], "cut short or damaged"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, data, message):
    path = write(tmp_path / "f", data)
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_bad_lines_are_counted_when_that_is_asked(tmp_path):
    path = write(tmp_path / "f", HEAD + 'u,"i,3,1\nu,j,3,2\nu\nv,j,x,2\n')
    raw = read(path, skip_bad_lines=True)
    assert rows_of(raw) == [("u", "j", 3, 2, None)]
    assert raw.skipped_lines == 3
    with pytest.raises(UserError, match="no line is left of 1"):
        read(write(tmp_path / "g", HEAD + "u\n"), skip_bad_lines=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": "usr=a"}, "columns: found 'usr', expected FIELD=NAME .*did you mean user"),
        ({"columns": "user"}, "columns: found 'user', expected FIELD=NAME"),
        ({"columns": "user=a,user=b"}, "columns: found 'user=b', expected FIELD=NAME, each"),
        ({"item_columns": {"rating": "a"}}, "item_columns: found 'rating'"),
        ({"columns": "user=usr"}, "no column 'usr' among user, item, but --columns user=usr names"),
        ({"items": "nowhere.csv"}, "nowhere.csv: no such file, expected a table of items"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, options, message):
    path = write(tmp_path / "f.csv", "user,item\nu,i\n")
    with pytest.raises(UserError, match=message):
        read(path, **options)


def test_files_must_have_the_columns_of_the_first(tmp_path):
    paths = [
        write(tmp_path / "1.csv", "user,item,rating\nu,i,3\n"),
        write(tmp_path / "2.csv", "user,item\nu,i\n"),
    ]
    with pytest.raises(UserError, match=r"2\.csv: found no column 'rating' .*1\.csv has it"):
        read(paths)


def test_what_is_no_table_is_refused_as_a_format(tmp_path):
    with pytest.raises(
        UserError, match=r"format: found \[1\], expected one of amazon, .* or a table"
    ):
        prepare([1], tmp_path / "d")


def test_lone_quotes_between_tabs_are_signs_like_others(tmp_path):
    path = write(tmp_path / "f", 'user\titem\ttext\nu\t5" pipe\t"\nv\t"x" y\tz\n')
    assert [row[:2] + row[4:] for row in rows_of(read(path))] == [
        ("u", '5" pipe', '"'),
        ("v", '"x" y', "z"),
    ]


def test_times_of_mixed_units_are_warned_about(tmp_path):
    lines = [f"u{n},i,{10**9 + n}\n" for n in range(30)] + ["u,i,1500000000000\n"]
    raw = read(write(tmp_path / "f.csv", "user,item,ts\n" + "".join(lines)))
    assert raw.understood["times"].startswith("warning: 1 of 31 lie far from the others")


# --- columns at once, against the same cells row by row ---

ODD = (
    ["u1", " u1", "u1 ", "7", "7.0", "007", "", " ", "nan", "NaN", "nAn", "inf", "-5", "+5", "5.5"]
    + ["1e3", "0x1F", "1_0", "9" * 18, "9" * 19, "4611686018427387904", "2020-01-31", "é", "\0"]
    + ["\r", "a,b", 'a"b', '"a"', "::", "<b>x</b>", "\ufeff", "1/2/2020", "none", "."]
)
CELLS = st.sampled_from(ODD)
TYPED = {
    "int64": st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9),
    "uint64": st.integers(0, 2**64 - 1),
    "float64": st.sampled_from([0.0, -0.0, 1.0, 2.5, math.nan, math.inf, 1e300, 1e15]),
    "bool": st.booleans(),
    "string": CELLS,
    "large_string": CELLS,
    "date32": st.dates(),
    "timestamp[s]": st.datetimes().map(lambda moment: moment.replace(microsecond=0)),
    "timestamp[ns, tz=Europe/Paris]": st.datetimes(
        datetime.datetime(1800, 1, 1), datetime.datetime(2200, 1, 1), timezones=st.just(UTC)
    ),
    "list<item: int64>": st.lists(st.integers(0, 9), max_size=2),
}
ZONED = pa.timestamp("ns", "Europe/Paris")
TYPES = {str(kind): kind for kind in (pa.timestamp("s"), ZONED, pa.list_(pa.int64()))}


@st.composite
def texts_of_cells(draw) -> bytes:
    sign = draw(st.sampled_from([",", "\t", ";", "|", "::"]))
    rows = [["user", "item", "rating", "timestamp", "text"][: draw(st.integers(2, 5))]]
    for number in range(draw(st.integers(1, 6))):
        row = [f"u{number % 2}", f"{number % 3}", "4", f"{10**9 + number}", "Good"][: len(rows[0])]
        for _ in range(draw(st.integers(0, 1))):
            row[draw(st.integers(0, len(row) - 1))] = draw(CELLS)
        rows.append(row + ["more"] * (draw(st.integers(0, 20)) == 20))
    ending = draw(st.sampled_from(["\n", "\r\n"]))
    text = ending.join(sign.join(row) for row in rows)
    return (text + draw(st.sampled_from(["", ending, ending * 2, " "]))).encode()


@st.composite
def typed_cells(draw) -> bytes:
    size = draw(st.integers(0, 5))
    columns = {}
    for name in ("user", "item", "rating", "timestamp", "text"):
        kind = draw(st.sampled_from([*TYPED]))
        cells = TYPED[kind] | st.none() if draw(st.booleans()) else TYPED[kind]
        values = draw(st.lists(cells, min_size=size, max_size=size))
        column = pa.array(values, TYPES.get(kind) or pa.type_for_alias(kind))
        coded = kind in ("int64", "string") and draw(st.booleans())
        columns[name] = column.dictionary_encode() if coded else column
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, row_group_size=draw(st.integers(1, 5)))
    return out.getvalue()


def both_ways(path: Path, block: int, **options: Any) -> tuple[object, object]:
    """What is read of a file in columns, where that can be, and row by row."""

    def outcome() -> object:
        try:
            raw = read(path, **options)
        except UserError as error:
            return str(error)
        return (
            [repr(row) for row in rows_of(raw)],
            (raw.user_keys, raw.item_keys, raw.line.tolist(), raw.skipped_lines, raw.starts),
            (raw.time_unit, raw.understood),
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK", block)
        patch.setattr(lines, "PIECE", block)
        found = outcome()
        patch.setattr(table, "in_columns", lambda *given: None)
        return found, outcome()


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts_of_cells() | typed_cells(), st.booleans(), st.sampled_from([1, 1 << 22]))
def test_columns_are_what_the_rows_say(tmp_path, data, skip, block):
    found, expected = both_ways(write(tmp_path / "f", data), block, skip_bad_lines=skip)
    assert found == expected


@pytest.mark.parametrize("column", range(5))
@pytest.mark.parametrize("block", [1, 1 << 22])
@pytest.mark.parametrize("dates", [False, True])
def test_an_odd_cell_in_any_place_is_what_its_row_says(tmp_path, column, block, dates):
    times = ("2020-01-31", "2020-02-01 10:00:00") if dates else ("1580428800", "1580551200")
    for odd in ODD:
        rows = [["u1", "7", "4", times[0], "Good"], ["u2", "8", "5", times[1], "Bad"]]
        rows.insert(1, [*rows[0]])
        rows[1][column] = odd
        text = "".join(",".join(row) + "\n" for row in [[*FIELDS], *rows])
        found, expected = both_ways(write(tmp_path / "f", text), block)
        assert found == expected, odd


@pytest.mark.parametrize("block", [1, 1 << 22])
@pytest.mark.parametrize(
    "text",
    [
        '"user","item"\nu1,1\nu2,2\n',
        '"user\n","item"\nu1,1\nu2,2\n',
        '"user",item,"a ""b"""\nu1,1,"x\ny"\nu2,2,y\n',
        'user,item,a"b\nu1,1,3\nu2,2,4\n',
        "\n\nuser,item\n\nu1,1\nu2,2",
        "\ufeffuser,item\nu1,1\n\ufeffu2,2\n",
        'user,item,text\nu1,1,a\nu1,2,"b\n\nc"\nu2,1,"d"\n',
        'user,item,text\nu1,1,a\nu1,2,5" disk\nu2,1,"d\n3"\nu3,1,e\n',
    ],
)
def test_quotes_and_blank_lines_are_what_the_rows_say(tmp_path, text, block):
    found, expected = both_ways(write(tmp_path / "f", text), block)
    assert found == expected


@pytest.mark.parametrize("kind", [*TYPED])
@pytest.mark.parametrize("field", ["user", "rating", "timestamp", "text"])
@given(data=st.data())
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_column_of_any_type_is_what_its_rows_say(tmp_path, kind, field, data):
    values = data.draw(st.lists(TYPED[kind], min_size=2, max_size=3))
    row = {"user": "u", "item": 1, "rating": 4.5, "timestamp": 10**9, "text": "Good"}
    columns = {name: pa.array([cell] * len(values)) for name, cell in row.items()}
    columns[field] = pa.array(values, TYPES.get(kind) or pa.type_for_alias(kind))
    pq.write_table(pa.table(columns), tmp_path / "f")
    found, expected = both_ways(tmp_path / "f", 1)
    assert found == expected


@pytest.mark.parametrize("form", ["comma", "tab", "::", "parquet", "arrow stream", "moments"])
def test_usual_tables_are_read_in_columns(tmp_path, monkeypatch, form):
    monkeypatch.setattr(RowCollector, "add", None)
    rows = [
        {"user": f"u{n % 3}", "item": n % 2, "rating": n % 5 + 0.5, "timestamp": 10**9 + n}
        for n in range(9)
    ]
    if form == "::":
        data = FORMATS["comma"](rows).replace(b",", b"::")
    elif form == "moments":
        whole = arrow(rows)
        moments = whole["timestamp"].cast(pa.timestamp("s")).cast(pa.timestamp("us", "UTC"))
        sink = io.BytesIO()
        pq.write_table(whole.set_column(3, "timestamp", moments), sink)
        data = sink.getvalue()
    else:
        data = (FORMATS | {"tab": lambda rows: separated(rows, "\t", csv.QUOTE_NONE, "\n")})[form](
            rows
        )
    expected = [
        (row["user"], str(row["item"]), row["rating"], row["timestamp"], None) for row in rows
    ]
    assert rows_of(read(write(tmp_path / "f", data))) == expected
