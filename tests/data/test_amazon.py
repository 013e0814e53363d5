"""The Amazon reader: versions, metadata, damage; and the line reading all readers share."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p5jax.core.errors import UserError
from p5jax.data.readers import amazon
from p5jax.data.readers.amazon import read_amazon


def review_2014(user: str, item: str, stars: object = 5.0, time: object = 100, **more) -> dict:
    return {
        "reviewerID": user,
        "asin": item,
        "reviewerName": f"Name of {user}",
        "helpful": [0, 0],
        "reviewText": "It is <b>good</b> &amp; cheap.",
        "overall": stars,
        "summary": "Good",
        "unixReviewTime": time,
        **more,
    }


def review_2023(user: str, item: str, stars: float = 4.0, time: int = 1_600_000_000_123) -> dict:
    return {
        "rating": stars,
        "title": "Fine",
        "text": "Does<br />its job.",
        "images": [],
        "asin": item + "-variant",
        "parent_asin": item,
        "user_id": user,
        "timestamp": time,
    }


def write(path: Path, rows: list) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["reviews_Tea_5.json", "Tea_5.json.gz"])
def test_reads_2014_and_2018(tmp_path, name):
    rows = [
        review_2014("u2", "a", 3.0, 20),
        review_2014("u1", "a", 1.0, 10, verified=True, style={"Size:": "L"}),
        review_2014("u2", "b", 5.0, 30, summary=None),
    ]
    del rows[1]["reviewText"], rows[1]["reviewerName"]
    raw = read_amazon([write(tmp_path / name, rows)])
    assert raw.name == "Tea"
    assert (raw.user_keys, raw.item_keys) == (["u2", "u1"], ["a", "b"])
    np.testing.assert_array_equal(raw.user, [0, 1, 0])
    np.testing.assert_array_equal(raw.item, [0, 0, 1])
    np.testing.assert_array_equal(raw.rating, [3, 1, 5])
    np.testing.assert_array_equal(raw.timestamp, [20, 10, 30])
    assert raw.time_unit == "second"
    assert raw.headline.to_pylist() == ["Good", "Good", None]
    texts = [text and " ".join(text.split()) for text in raw.text.to_pylist()]
    assert texts == ["It is good & cheap.", None, "It is good & cheap."]
    assert raw.user_columns == {"name": ["Name of u2", None]}


def test_reads_2023_by_parent_with_milliseconds(tmp_path):
    raw = read_amazon([write(tmp_path / "Tea.jsonl.gz", [review_2023("u", "P1")])])
    assert raw.item_keys == ["P1"]
    assert raw.time_unit == "millisecond"
    assert raw.timestamp.tolist() == [1_600_000_000_123]
    assert raw.text.to_pylist() == ["Does its job."]


def test_several_files_and_mixed_versions(tmp_path):
    first = write(tmp_path / "a.json", [review_2014("u", "a")])
    second = write(tmp_path / "b.json", [review_2014("u", "b")])
    raw = read_amazon([first, second])
    assert raw.item_keys == ["a", "b"]
    assert len(raw.sources) == 2
    newer = write(tmp_path / "c.json", [review_2023("u", "b")])
    with pytest.raises(UserError, match=r"c\.json:1: .*'user_id'.*a\.json:1.*'reviewerID'"):
        read_amazon([first, newer])


def test_metadata_of_each_version(tmp_path):
    reviews = write(tmp_path / "r.json", [review_2014("u", k) for k in ("x1", "x2", "x3", "x4")])
    old = write(
        tmp_path / "meta.json",
        [
            "{'asin': 'x1', 'title': 'Tea\\'s &amp; more', 'price': 3.5, 'brand': 'Leaf',"
            " 'categories': [['Food', 'Tea'], ['Gifts']]}",
            "{'asin': 'unreviewed', 'title': 'Nothing'}",
        ],
    )
    new = write(
        tmp_path / "meta2.json.gz",
        [
            {"asin": "x2", "title": "Two", "brand": "", "category": ["A", "B", "B"], "price": "$2"},
            {"asin": "x2", "title": "Two again", "brand": "Late"},
            {"parent_asin": "x3", "title": "Three", "store": "Shop", "categories": [], "price": 7},
            {"asin": "x4", "title": " ", "price": ".a{color:red} 12 " + "b" * 50},
        ],
    )
    columns = read_amazon([reviews], [old, new]).item_columns
    assert columns["title"] == ["Tea's & more", "Two", "Three", None]
    assert columns["brand"] == ["Leaf", "Late", "Shop", None]
    assert columns["categories"] == ["Food | Tea", "A | B", None, None]
    assert columns["price"] == ["3.50", "$2", "7.00", None]


def test_titles_brands_and_prices_of_pages(tmp_path):
    reviews = write(tmp_path / "r.json", [review_2014("u", f"x{n}") for n in range(5)])
    code = "var begin = (new Date()).getTime();\nvar t0 = window.t0 || +new Date();"
    style = "\n\n\n.a-box-inner{background-color:#fff}#widget .selected{color:#fffbf3}"
    path = ["Music", "</span></span></span>"]
    rows = [
        {"asin": "x0", "title": code, "brand": style, "price": ".a{background-color:#fff} $1"},
        {"asin": "x1", "title": "Guitar &amp; Bass &lt;Live&gt;", "brand": "by\n    \n    Acme"},
        {"asin": "x2", "title": "Strings <12 gauge and >9 gauge", "category": path},
        {"asin": "x3", "title": "nan", "brand": "None", "store": "Shop", "price": float("nan")},
        {"asin": "x4", "title": "<script>x()</script><b>Drum</b>", "brand": "By Terry", "price": 7},
    ]
    columns = read_amazon([reviews], [write(tmp_path / "m.json", rows)]).item_columns
    assert columns == {
        "title": [None, "Guitar & Bass <Live>", "Strings <12 gauge and >9 gauge", None, "Drum"],
        "brand": [None, "Acme", None, "Shop", "By Terry"],
        "categories": [None, None, "Music", None, None],
        "price": [None, None, None, None, "7.00"],
    }


def test_values_that_are_code_of_a_page_are_left_out_and_told(tmp_path):
    reviews = write(tmp_path / "r.json", [review_2014("u", "a"), review_2014("u", "b")])
    metadata = [
        {"asin": "a", "title": "var a = 1; b();", "brand": "ACME; $(co)", "price": ".a{color:#f}"},
        {"asin": "b", "title": "T-shirt {size: M} blue", "brand": "B", "price": "$3"},
    ]
    raw = read_amazon([reviews], [write(tmp_path / "m.json", metadata)])
    assert raw.item_columns["title"] == [None, "T-shirt {size: M} blue"]
    assert raw.item_columns["brand"] == ["ACME; $(co)", "B"]
    assert raw.understood["items"].endswith("; left out as code of a page: 2")


def test_a_line_that_is_refused_decides_nothing_about_the_times_of_others(tmp_path):
    odd = [
        review_2014("u", "a", time="31/01/2020", reviewText=5),
        {**review_2023("u", "a"), "timestamp": "x"},
    ]
    rows = [*odd, review_2014("u", "a", time=1_600_000_000)]
    raw = read_amazon([write(tmp_path / "r.json", rows)], skip_bad_lines=True)
    assert raw.skipped_lines == 2
    assert (raw.timestamp.tolist(), raw.time_unit) == ([1_600_000_000], "second")


def test_the_rate_of_matching_metadata_is_told(tmp_path):
    reviews = write(tmp_path / "r.json", [review_2014("u", key) for key in "abc"])
    meta = write(tmp_path / "m.json", [{"asin": "a", "title": "A"}, {"asin": "x"}, {"asin": "y"}])
    raw = read_amazon([reviews], [meta])
    assert raw.understood["columns"] == "fields of Amazon 2014 or 2018"
    told = raw.understood["items"]
    assert told.startswith("warning: fewer than half match: items such as b, c, where m.json has x")
    assert "1 of 3 items are in m.json, with 1 title, 0 brand" in told
    meta = write(tmp_path / "m.json", [{"asin": "A"}, {"asin": "B"}])
    with pytest.raises(UserError, match=r"m\.json: found none of the 3 items .* a, b, c, .* A, B;"):
        read_amazon([reviews], [meta])


def test_times_with_fractions_keep_their_order(tmp_path):
    lines = [
        json.dumps(review_2014("u", str(n))).replace("100}", f"1700000000.{n:09d}}}")
        for n in (7, 3, 5)
    ]
    assert "1700000000.000000007" in lines[0]
    raw = read_amazon([write(tmp_path / "r.json", lines)])
    assert (raw.timestamp - 1_700_000_000 * 10**9).tolist() == [7, 3, 5]
    assert raw.time_unit == "nanosecond"
    assert "seconds since 1970, 2023-11-14" in raw.understood["times"]


def test_metadata_is_never_executed(tmp_path):
    reviews = write(tmp_path / "r.json", [review_2014("u", "x1")])
    mark = tmp_path / "executed"
    line = f"{{'asin': 'x1', 'title': open({str(mark)!r}, 'w').write('x')}}"
    with pytest.raises(UserError, match=r"meta\.json:1: .*neither JSON .* nor a Python literal"):
        read_amazon([reviews], [write(tmp_path / "meta.json", [line])])
    assert not mark.exists()


def test_deep_metadata_is_a_bad_line(tmp_path):
    reviews = write(tmp_path / "r.json", [review_2014("u", "x1")])
    for line in (
        '{"asin": "x1", "title": ' + "[" * 100_000,
        "{'asin': 'x1', 'title': " + "(" * 500,
    ):
        with pytest.raises(UserError, match=r"meta\.json:1: found a line that is neither JSON"):
            read_amazon([reviews], [write(tmp_path / "meta.json", [line])])


def test_keys_may_be_numbers(tmp_path):
    path = write(tmp_path / "r.json", [review_2014(12, 7), review_2014(12.0, "7")])
    raw = read_amazon([path], [write(tmp_path / "m.json", [{"asin": 7, "title": "T"}])])
    assert (raw.user_keys, raw.item_keys, raw.item_columns["title"]) == (["12"], ["7"], ["T"])


def without(field: str) -> dict:
    row = review_2014("u", "a")
    del row[field]
    return row


BAD = {
    "not JSON": ('{"reviewerID": "u", ', r"not JSON"),
    "not an object": ("[1, 2]", r"found list, expected a JSON object"),
    "rating text": (
        review_2014("u", "a", "abc"),
        r"field 'overall': found 'abc', expected a number",
    ),
    "rating range": (review_2014("u", "a", 6), r"field 'overall': found 6, expected 1 to 5"),
    "rating NaN": (review_2014("u", "a", float("nan")), r"field 'overall': found nan"),
    "rating bool": (review_2014("u", "a", True), r"field 'overall': found True"),
    "no rating": (without("overall"), r"field 'overall' is missing"),
    "no user": (without("reviewerID"), r"field 'reviewerID' is missing"),
    "no item": (without("asin"), r"field 'asin' is missing"),
    "no time": (without("unixReviewTime"), r"field 'unixReviewTime' is missing"),
    "empty user": (review_2014(" ", "a"), r"field 'reviewerID': found ' ', expected a non-empty"),
    "time before all": (review_2014("u", "a", 5, -(2**63)), r"found -922\d*, expected a time"),
    "time text": (review_2014("u", "a", 5, "May"), r"field 'unixReviewTime': found 'May'"),
    "huge time": (
        review_2014("u", "a", 5, 10**300),
        r"field 'unixReviewTime': found 10{76}\.\.\., expected a time",
    ),
    "user missing": (review_2014("nan", "a"), r"field 'reviewerID': found 'nan', expected a non-"),
    "no field": ({}, r"field 'reviewerID' is missing, found no field"),
    "endless": ("[" * 200_000, r"not JSON \(values within values without end\)"),
    "endless rating": (review_2014("u", "a", 10**400), r"field 'overall': found 1000"),
    "digits": ('{"overall": ' + "9" * 5000, r"not JSON \(Exceeds the limit"),
    "surrogate": (review_2014("\ud800", "a"), r"field 'reviewerID': found '.ud800'"),
    "line end in a key": ({"a\nb": 1}, r"field 'reviewerID' is missing, found 'a.nb'$"),
    "number as text": (review_2014("u", "a", reviewText=7), r"field 'reviewText': found 7"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_named_or_skipped_and_counted(tmp_path, case):
    line, message = BAD[case]
    good = review_2014("u", "b")
    path = write(tmp_path / "r.json", [good, line, review_2014("v", "b")])
    with pytest.raises(UserError, match=rf"r\.json:2: .*{message}") as caught:
        read_amazon([path])
    assert "\n" not in str(caught.value)
    raw = read_amazon([path], skip_bad_lines=True)
    assert raw.skipped_lines == 1
    assert raw.user_keys == ["u", "v"]
    assert len(raw.user) == 2


def test_a_line_that_is_not_utf8(tmp_path):
    path = tmp_path / "r.json"
    path.write_bytes(json.dumps(review_2014("u", "b")).encode() + b"\n\xff\xfe\n")
    with pytest.raises(UserError, match=r"r\.json:2: found byte 0xff, expected UTF-8"):
        read_amazon([path])
    assert read_amazon([path], skip_bad_lines=True).skipped_lines == 1


def test_lone_surrogates_can_be_stored(tmp_path):
    path = write(tmp_path / "r.json", [review_2014("u", "a", reviewText="odd \ud83d end")])
    assert read_amazon([path]).text.to_pylist() == ["odd ? end"]


@pytest.mark.parametrize("skip", [False, True])
def test_a_truncated_gzip_is_always_an_error(tmp_path, skip):
    rng = np.random.default_rng(0)
    rows = [review_2014("u", str(n), summary=rng.bytes(40).hex()) for n in range(500)]
    whole = write(tmp_path / "whole.json.gz", rows).read_bytes()
    path = tmp_path / "cut.json.gz"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(
        UserError, match=r"cut\.json\.gz: .*cut short.*last good line is (\d+)"
    ) as e:
        read_amazon([path], skip_bad_lines=skip)
    last = int(str(e.value).split("last good line is ")[1].split()[0])
    assert last < 500
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 50] = bytes(50)
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"cut\.json\.gz"):
        read_amazon([path], skip_bad_lines=False)


@pytest.mark.parametrize("content", [b"", b"\n\n", gzip.compress(b"", mtime=0)])
def test_an_empty_file_is_an_error(tmp_path, content):
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"r\.json: found an empty file, expected a JSON review"):
        read_amazon([path])


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        read_amazon([tmp_path / "none.json"])
    with pytest.raises(UserError, match=r"is a folder"):
        read_amazon([tmp_path])


def test_musical_instruments(shared):
    path = shared / "data/amazon/musical_instruments/reviews_Musical_Instruments_5.json.gz"
    raw = read_amazon([path])
    assert raw.name == "Musical_Instruments"
    with gzip.open(path, "rt") as file:
        records = [json.loads(line) for line in file]
    assert len(raw.user) == len(records) == 10_261
    assert [raw.user_keys[u] for u in raw.user] == [r["reviewerID"] for r in records]
    assert [raw.item_keys[i] for i in raw.item] == [r["asin"] for r in records]
    assert raw.rating.tolist() == [r["overall"] for r in records]


def test_gift_cards_metadata(shared):
    folder = shared / "data/amazon/gift_cards"
    raw = read_amazon([folder / "Gift_Cards_5.json.gz"], [folder / "meta_Gift_Cards.json.gz"])
    titles = dict(zip(raw.item_keys, raw.item_columns["title"], strict=True))
    assert titles["B004Q7CK9M"] == "Amazon.com Gift Card in a Greeting Card (Various Designs)"
    assert all(titles.values())


def in_small_blocks(monkeypatch):
    """Files are read in blocks of a line, by two threads."""
    monkeypatch.setattr("p5jax.data.readers.lines.BLOCK", 1)
    monkeypatch.setattr("p5jax.data.readers.lines.PIECE", 100)
    monkeypatch.setattr("p5jax.core.threads.thread_count", lambda: 2)


def test_blocks_read_apart_are_what_one_block_is(tmp_path, monkeypatch):
    users = ["u1", "u2", "u1", "u3", "u2", "u1", "u4", "u3"]
    rows = [review_2014(user, f"i{n % 3}", 1 + n % 5, 100 + n) for n, user in enumerate(users)]
    del rows[0]["reviewerName"]  # the name of u1 is in a later block
    path = write(tmp_path / "Tea.json.gz", [*rows[:4], "", "{", *rows[4:], rows[0] | {"asin": ""}])
    whole = read_amazon([path], skip_bad_lines=True)
    in_small_blocks(monkeypatch)
    apart = read_amazon([path], skip_bad_lines=True)
    for column in ("user", "item", "rating", "timestamp"):
        np.testing.assert_array_equal(getattr(apart, column), getattr(whole, column))
    for column in ("user_keys", "item_keys", "user_columns", "skipped_lines", "understood"):
        assert getattr(apart, column) == getattr(whole, column)
    assert apart.text.equals(whole.text)
    assert whole.skipped_lines == 2


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("{", r"Tea\.json:8: found a line that is not JSON"),
        (review_2023("u", "i"), r"Tea\.json:8: found field 'user_id' but .*Tea\.json:1 has"),
        (review_2014("u", "i", time="2015-01-31"), r":8: field 'unixReviewTime'.* a number as bef"),
    ],
)
def test_a_bad_line_of_a_later_block_is_named(tmp_path, monkeypatch, last, message):
    rows = [review_2014(f"u{n}", "i", 5.0, n) for n in range(7)]
    in_small_blocks(monkeypatch)
    with pytest.raises(UserError, match=message):
        read_amazon([write(tmp_path / "Tea.json", [*rows, last])])


ODD = st.sampled_from(
    [None, "", " ", "nan", "u1", " u1", "u1 ", "<b>", "a &amp; b", "\ud83d", "é", "x\0", "\n", "5"]
    + [0, 1, 3, 12, -1, 5.0, 4.5, 12.0, 2**62, 2**63, 2**70, 1e300, True, [], [1], {}, {"a": "u1"}]
)
FIELDS = (
    ["reviewerID", "asin", "reviewerName", "reviewText", "overall", "summary", "unixReviewTime"],
    ["user_id", "asin", "parent_asin", "rating", "title", "text", "timestamp", "reviewerID"],
)


@st.composite
def lines(draw) -> list[str]:
    """A few reviews of one version, most of them as they should be, and what is no review."""
    version = draw(st.integers(0, 1))
    review = (review_2014, review_2023)[version]
    written = []
    for number in range(draw(st.integers(1, 6))):
        row = review(f"u{number % 3}", f"i{number % 2}", 1 + number % 5)
        for field in draw(st.lists(st.sampled_from(FIELDS[version]), max_size=2)):
            if draw(st.booleans()):
                row[field] = draw(ODD)
            else:
                row.pop(field, None)
        written.append(json.dumps(row, ensure_ascii=draw(st.booleans())))
    other = st.sampled_from(["", "{", "[]", "1", '{"a": NaN}', "\ufeff" + written[0], "{}", " "])
    written += draw(st.lists(other, max_size=1))
    return [line.encode("utf-8", "surrogatepass").decode("utf-8", "replace") for line in written]


@given(lines(), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_columns_are_what_the_lines_say(tmp_path, lines, ending, last, skip):
    path = tmp_path / "Tea.json"
    path.write_bytes((ending.join(lines) + ending * last).encode())

    def outcome() -> object:
        try:
            raw = read_amazon([path], skip_bad_lines=skip)
        except UserError as error:
            return str(error)
        columns = [raw.user, raw.item, raw.rating, raw.timestamp]
        told = raw.user_keys, raw.item_keys, raw.user_columns, raw.skipped_lines, raw.understood
        texts = raw.headline.to_pylist(), raw.text.to_pylist()
        return [column.tolist() for column in columns], texts, told

    found = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amazon, "in_columns", lambda scale, path, block: [(block, None)])
        assert found == outcome()


def test_usual_lines_are_read_in_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(amazon.Reviews, "read", None)
    odd = review_2014("u", "i", 4, 7, summary=" é &amp; <b>so</b>\u2003", reviewText=" ", asin="i2")
    raw = read_amazon([write(tmp_path / "Tea.json", [review_2014("u", "i"), odd])])
    assert raw.headline.to_pylist() == ["Good", "é &  so"]
    assert raw.text.to_pylist() == ["It is  good  & cheap.", None]
    assert read_amazon([write(tmp_path / "T.json", [review_2023("u", "i")] * 2)]).user.tolist()


def test_few_lines_beside_an_unusual_one_are_read_one_by_one(tmp_path, monkeypatch):
    rows = [review_2014(f"u{n % 9}", f"i{n % 7}", 1 + n % 5, n) for n in range(3000)]
    rows[1234] = review_2014("u", "i", 4, 7, summary="half a pair \ud83d")
    path, one_by_one = write(tmp_path / "Tea.json", rows), list[int]()
    read = amazon.Reviews.read

    def noted(reviews, path, block, errors):
        one_by_one.append(block.data.count(b"\n"))
        read(reviews, path, block, errors)

    monkeypatch.setattr(amazon.Reviews, "read", noted)
    raw = read_amazon([path])
    assert raw.headline.to_pylist()[1233:1236] == ["Good", "half a pair ?", "Good"]
    assert raw.timestamp.tolist() == [*range(1234), 7, *range(1235, 3000)]
    (lines,) = one_by_one
    assert lines < 500


@pytest.mark.parametrize(
    "line", ["null", '{"asin": "i"} null', "{} null {}", '{"a": 1}{"b": 2}', '"text"', "[{}]"]
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_lines_that_are_no_object_are_refused(tmp_path, line, place):
    rows = [review_2014("u", "i"), review_2014("u", "i2")]
    path = write(tmp_path / "Tea.json", [*rows[:place], line, *rows[place:]])
    with pytest.raises(UserError, match=rf"Tea\.json:{place + 1}: (found|field)"):
        read_amazon([path])
