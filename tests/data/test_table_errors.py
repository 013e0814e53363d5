"""Tables that cannot be read as they are: one line that says why."""

from __future__ import annotations

import gzip

import pytest
from table_files import parquet, read, rows_of, write

from p5jax.core.errors import UserError
from p5jax.data.prepare import prepare

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
