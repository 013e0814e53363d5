"""Columns read at once are what the same cells say row by row."""

from __future__ import annotations

import csv
import datetime
import io
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table_files import FORMATS, arrow, read, rows_of, separated, write

from p5jax.core.errors import UserError
from p5jax.data.readers import lines, table
from p5jax.data.readers.raw import RowCollector

UTC = datetime.UTC
FIELDS = ("user", "item", "rating", "timestamp", "text")
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
