"""Raw files of each format to a dataset folder, by the options of the command line."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from p5jax.cli.main import main
from p5jax.core.errors import UserError
from p5jax.data.dataset import Dataset
from p5jax.data.formats import FORMATS, PrepareOptions
from p5jax.data.prepare import prepare, read_raw
from p5jax.data.readers.synthetic import synthetic_raw


def test_read_raw_finds_the_reader(tmp_path):
    reviews, words = tmp_path / "reviews_Tea_5.json", tmp_path / "words.txt"
    record = {"reviewerID": "u", "asin": "a", "overall": 5, "unixReviewTime": 1}
    reviews.write_text(json.dumps(record) + "\n")
    words.write_text("aroma\n")
    raw = read_raw("amazon", reviews=[str(reviews)], feature_words=str(words))
    assert raw.feature_words == ["aroma"]
    assert [source["path"] for source in raw.sources] == [str(reviews), str(words)]
    (tmp_path / "t.inter").write_text("user_id:token\titem_id:token\nu\ti\n")
    assert read_raw("recbole", folder=str(tmp_path)).name == "t"
    (tmp_path / "s.txt").write_text("1 2 3\n")
    assert read_raw("sequences", sequences=str(tmp_path / "s.txt")).item_keys == ["2", "3"]
    assert read_raw("synthetic", seed=4).format == "synthetic"
    with pytest.raises(UserError, match="found 'csv', expected one of amazon"):
        read_raw("csv")


def test_prepare_writes_and_returns_the_dataset(tmp_path):
    made = prepare("synthetic", tmp_path / "d", item_ids="token", seed=3, k_core=3)
    assert isinstance(made, Dataset)
    assert (made.id_scheme, made.manifest["protocol"]["k_core"]) == ("token", 3)
    assert made.manifest["protocol"]["seed"] == 3
    assert made.fingerprint == Dataset.load(tmp_path / "d").fingerprint


@pytest.mark.parametrize("options", [{"k_core": 0}, {"seed": -1}, {"rating_scale": (5, 1)}])
def test_options_out_of_range_are_refused_before_anything_is_read(tmp_path, options):
    with pytest.raises(UserError, match=rf"{next(iter(options))}: found .*, expected "):
        prepare("recbole", tmp_path / "d", folder=tmp_path / "not there", **options)


def test_the_command_prints_what_was_understood_in_ten_lines_at_most(tmp_path, capsys):
    assert main(["data", "prepare", "synthetic", "--out", str(tmp_path / "d")]) == 0
    printed = capsys.readouterr().out.splitlines()
    understood = Dataset.load(tmp_path / "d").manifest["understood"]
    assert 1 <= len(understood) <= 10
    for (topic, sentence), line in zip(understood.items(), printed, strict=False):
        assert line.split(maxsplit=1) == [topic, sentence]


def test_one_file_may_stand_for_a_list_of_one(tmp_path):
    reviews = tmp_path / "Tea.json"
    record = {"reviewerID": "u", "asin": "a", "overall": 5, "unixReviewTime": 1}
    reviews.write_text(json.dumps(record) + "\n")
    for given in (str(reviews), reviews, [reviews]):
        assert read_raw("amazon", reviews=given).item_keys == ["a"]


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("amazon", {"review": "f"}, "found option 'review', .*did you mean reviews"),
        ("recbole", {"folder": "f", "sequences": "f"}, "prepare recbole: found option 'sequences'"),
        ("amazon", {}, "prepare amazon: found no reviews"),
        ("parquet", {}, "found 'parquet', expected one of amazon"),
    ],
)
def test_wrong_options_are_refused(tmp_path, format, options, message):
    with pytest.raises(UserError, match=message):
        prepare(format, tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("options", FORMATS.values())
def test_options_say_what_they_are(options):
    for field in dataclasses.fields(options):
        assert set(field.metadata) <= {"help", "metavar", "nargs", "choices"}, field.name
        assert field.metadata["help"], field.name
    assert options.summary
    assert not options.summary.endswith(".")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fewer(PrepareOptions):
    """The invented world with fewer users."""

    summary = "Make a smaller dataset"
    reader = f"{__name__}:fewer"

    users: int = dataclasses.field(default=50, metadata={"help": "how many"})


def fewer(options):
    return synthetic_raw(users=options.users, seed=options.seed)


def test_a_reader_is_a_function_its_options_and_a_line(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "fewer", Fewer)
    assert read_raw("fewer", seed=1).user.max() == 49
    assert prepare("fewer", tmp_path / "d", users=60, k_core=3).num_users <= 60
    with pytest.raises(UserError, match="prepare fewer: found option 'user', .*did you mean users"):
        prepare("fewer", tmp_path / "e", user=3)


def test_preparing_needs_no_jax():
    program = "import sys, p5jax.data.prepare; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("format", "files", "sizes"),
    [
        (
            "amazon",
            {
                "reviews": ["amazon/musical_instruments/reviews_Musical_Instruments_5.json.gz"],
                "feature_words": "amazon/musical_instruments/feature_words.txt",
            },
            (1429, 900, 10_261),
        ),
        (
            "amazon",
            {
                "reviews": ["amazon/gift_cards/Gift_Cards_5.json.gz"],
                "metadata": ["amazon/gift_cards/meta_Gift_Cards.json.gz"],
            },
            (453, 147, 2941),
        ),
        ("recbole", {"folder": "ml-100k"}, (943, 1349, 99_287)),
    ],
)
def test_real_data(shared, tmp_path, format, files, sizes):
    def located(value):
        return [located(v) for v in value] if isinstance(value, list) else shared / "data" / value

    data = prepare(format, tmp_path / "out", **{n: located(value) for n, value in files.items()})
    counts = data.manifest["counts"]
    assert tuple(counts[name] for name in ("users", "items", "interactions")) == sizes
    users = data.interactions["user"].to_numpy()
    items = data.interactions["item"].to_numpy()
    assert np.bincount(users).min() >= 5
    assert np.bincount(items).min() >= 5
    if "feature_words" in files:
        assert counts["explanations"] > 4600
