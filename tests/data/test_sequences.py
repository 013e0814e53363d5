"""The reader of P5 / S3-Rec sequence files."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import time
from pathlib import Path

import numpy as np
import pytest

from p5jax.core.errors import UserError
from p5jax.data.readers.sequences import read_sequences


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    paths = {name: tmp_path / "toy" / name for name in ("seq.txt", "maps.json", "items.tsv")}
    paths["seq.txt"].parent.mkdir()
    paths["seq.txt"].write_text("2 7 3\n10 3 12 7\n1 12\n")
    maps = {
        "id2user": {"1": "Ann", "2": "Bob", "10": "Cyd"},
        "id2item": {"3": "C", "7": "G", "12": "L"},
    }
    paths["maps.json"].write_text(json.dumps(maps))
    paths["items.tsv"].write_text(
        "3\tC\tCrayons\tUnknown\t'Toys', \"Kid's Art\"\t2.5\n"
        "7\tG\tGlue\twith a tab\tStick\t'Toys'\tUnknown\n"
        "12\tL\tLamp of \ntwo lines\tLumo\t\t9\n"
        "99\tZ\tUnused\tB\t'X'\t1\n"
    )
    return paths


def test_order_is_numeric_and_time_the_position(files):
    raw = read_sequences(files["seq.txt"])
    assert raw.name == "toy"
    assert (raw.user_keys, raw.item_keys) == (["1", "2", "10"], ["3", "7", "12"])
    assert raw.source_numbers == ["3", "7", "12"]
    rows = list(zip(raw.user.tolist(), raw.item.tolist(), raw.timestamp.tolist(), strict=True))
    assert rows == [(0, 2, 0), (1, 1, 0), (1, 0, 1), (2, 0, 0), (2, 2, 1), (2, 1, 2)]
    assert np.isnan(raw.rating).all()
    assert raw.time_unit == "position"


def test_keys_and_item_table(files):
    raw = read_sequences(files["seq.txt"], files["maps.json"], files["items.tsv"])
    assert (raw.user_keys, raw.item_keys) == (["Ann", "Bob", "Cyd"], ["C", "G", "L"])
    assert raw.item_columns == {
        "title": ["Crayons", "Glue with a tab", "Lamp of two lines"],
        "brand": [None, "Stick", "Lumo"],
        "categories": ["Toys | Kid's Art", "Toys", None],
        "price": ["2.5", None, "9"],
    }
    assert [Path(source["path"]).name for source in raw.sources] == [
        "seq.txt",
        "maps.json",
        "items.tsv",
    ]


def test_keywords_become_titles(files, tmp_path):
    keywords = tmp_path / "keywords.txt"
    keywords.write_text("G glue stick  craft\nQ not here\nC\n")
    raw = read_sequences(files["seq.txt"], files["maps.json"], keywords)
    assert raw.item_columns["title"] == [None, "glue stick craft", None]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("5 1 x 2", "found 'x', expected user and item numbers"),
        ("5 -1", "found '-1', expected"),
        ("5 \u0661", "found '\u0661', expected"),  # 1 in Arabic digits
        ("5 1234567890123456789", "found '1234567890123456789', expected"),  # 19 digits
        ("5", "found user 5 without items"),
        ("2 3", "found user 2 again"),
    ],
)
def test_a_bad_line_is_named_or_skipped_and_counted(files, line, message):
    files["seq.txt"].write_text(f"2 7 3\n{line}\n4 3\n")
    with pytest.raises(UserError, match=rf"seq\.txt:2: {message}"):
        read_sequences(files["seq.txt"])
    raw = read_sequences(files["seq.txt"], skip_bad_lines=True)
    assert (raw.skipped_lines, raw.user_keys) == (1, ["2", "4"])


def test_a_short_table_row_is_named(files):
    files["items.tsv"].write_text("3\tC\tCrayons\n7\tG\tGlue\tB\t'X'\t1\n")
    with pytest.raises(UserError, match=r"items\.tsv:1: found 3 fields, expected 6"):
        read_sequences(files["seq.txt"], files["maps.json"], files["items.tsv"])


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ("{", "expected a datamaps JSON file"),
        pytest.param(
            "[" * 200_000,  # deeper than any version of Python goes
            "found values within values without end; expected a datamaps JSON file",
            id="endless",
        ),
        ('{"id2user": {"1": "a", "1": "b"}, "id2item": {}}', "found key '1' twice"),
        ('{"id2user": {}}', "field 'id2item' is missing"),
        ('{"id2user": {"1": "A"}, "id2item": {}}', "field 'id2user': found None for 2"),
        (
            '{"id2user": {"1": "A", "2": "A", "10": "B"}, "id2item": {"3":"x","7":"y","12":"z"}}',
            "found key 'A' for two users",
        ),
    ],
)
def test_bad_datamaps(files, maps, message):
    files["maps.json"].write_text(maps)
    with pytest.raises(UserError, match=rf"maps\.json: .*{message}"):
        read_sequences(files["seq.txt"], files["maps.json"])


def test_datamaps_may_be_packed_and_begin_with_a_mark(files):
    text = files["maps.json"].read_bytes()
    for data in (b"\xef\xbb\xbf" + text, gzip.compress(text)):
        files["maps.json"].write_bytes(data)
        assert read_sequences(files["seq.txt"], files["maps.json"]).user_keys == [
            "Ann",
            "Bob",
            "Cyd",
        ]


def test_the_item_table_must_be_of_the_same_numbering(files):
    read = functools.partial(
        read_sequences, files["seq.txt"], files["maps.json"], files["items.tsv"]
    )
    assert read().understood == {
        "times": "none: the order of the items on a line counts",
        "items": "3 of 3 items are in items.tsv, with 3 title, 2 brand, 2 categories, 2 price",
    }
    files["items.tsv"].write_text("3\tG\tGlue\tB\t'X'\t1\n")
    with pytest.raises(UserError, match=r"items\.tsv:1: found key 'G' for item 3, expected 'C' as"):
        read()
    files["items.tsv"].write_text("4\tG\tGlue\tB\t'X'\t1\n")
    with pytest.raises(UserError, match=r"none of the 3 items .* 3, 7, 12, where items.tsv has 4"):
        read()
    files["items.tsv"].write_text("C crayons\nQ other\n")
    assert (
        read().understood["items"].startswith("warning: fewer than half match: items such as G, L")
    )


@pytest.mark.parametrize(
    ("cell", "categories"),
    [
        ("'Beauty', 'Makeup', 'Beauty'", "Beauty | Makeup"),
        ("""['Toys', "Kid's Art"]""", "Toys | Kid's Art"),
        (r"'Kid\'s', ''", "Kid's"),
        ("Rock 'n' Roll", "Rock 'n' Roll"),
        ("'open", "'open"),
        ("", None),
    ],
)
def test_a_list_of_categories(files, cell, categories):
    files["items.tsv"].write_text(f"3\tC\tCrayons\tB\t{cell}\t1\n")
    raw = read_sequences(files["seq.txt"], files["maps.json"], files["items.tsv"])
    assert raw.item_columns["categories"][0] == categories


@pytest.mark.parametrize("unit", ['\\"', "\\'", "'", '"', "',", "'', ", "[", " ", "\\", "A\nB "])
def test_a_long_cell_takes_linear_time(files, unit):
    cell = unit * (200_000 // len(unit))
    files["items.tsv"].write_text(f'3\tC\tT\tB\t"{cell}"\t1\n7\tG\t{cell}\n')
    start = time.process_time()
    with contextlib.suppress(UserError):
        read_sequences(files["seq.txt"], files["maps.json"], files["items.tsv"])
    assert time.process_time() - start < 0.4  # two cells; a megabyte takes less than a second


def test_missing_and_empty_files(files, tmp_path):
    with pytest.raises(UserError, match="no such file, expected a datamaps"):
        read_sequences(files["seq.txt"], tmp_path / "none.json")
    files["seq.txt"].write_text("")
    with pytest.raises(UserError, match=r"seq\.txt: found an empty file"):
        read_sequences(files["seq.txt"])


@pytest.mark.parametrize(
    ("category", "items", "sizes"),
    [
        ("beauty", "items.tsv", (22_363, 12_101, 198_502)),
        ("toys", "item_keywords.txt", (19_412, 11_924, 167_597)),
    ],
)
def test_real_files(shared, category, items, sizes):
    folder = shared / "data/amazon" / category
    raw = read_sequences(folder / "sequential_data.txt", folder / "datamaps.json", folder / items)
    assert (len(raw.user_keys), len(raw.item_keys), len(raw.user)) == sizes
    assert raw.source_numbers == [str(n + 1) for n in range(sizes[1])]
    titled = sum(title is not None for title in raw.item_columns["title"])
    assert titled >= 0.99 * sizes[1]
