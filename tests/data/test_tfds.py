"""TFDS datasets read back without TensorFlow, against Parquet and JSON read independently."""

from __future__ import annotations

import gzip
import hashlib
import inspect
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import family_world
import pyarrow.parquet as pq
import pytest

from p5jax.cli import main as cli
from p5jax.cli.main import COMMANDS
from p5jax.core.errors import UserError
from p5jax.data.building import build_dataset
from p5jax.data.dataset import Dataset
from p5jax.data.prepare import read_raw

pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets (make test-extras)")
from p5jax.data.tfds import (
    AmazonConfig,
    AmazonReviews,
    DatasetTables,
    TableConfig,
    export_tables,
    write_files,
)

pytestmark = pytest.mark.extras
SPLITS = ("train", "validation", "test")
FORBID = """
import importlib.machinery, json, sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name in ("tensorflow", "seqio", "torch"):
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        raise RuntimeError("imported " + module.__name__)
sys.meta_path.insert(0, Forbid())
"""
# Reads every row of some datasets, the last first, where importing TensorFlow raises.
READER = """
import tensorflow_datasets as tfds
found = {}
for name in sys.argv[2:]:
    name, split = name.split(":")
    source = tfds.data_source(name, split=split, data_dir=sys.argv[1])
    rows = [source[number] for number in reversed(range(len(source)))][::-1]
    plain = lambda v: v.decode() if isinstance(v, bytes) else v
    found[name + ":" + split] = [{k: plain(v) for k, v in row.items()} for row in rows]
assert not {"tensorflow", "p5jax"} & {*sys.modules}
print(json.dumps(found))
"""


def without_tensorflow(program: str, *words: str) -> str:
    command = [sys.executable, "-c", FORBID + program, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_back(out: Path, *names: str) -> dict[str, list[dict]]:
    return json.loads(without_tensorflow(READER, str(out), *names))


def filled(row: dict) -> dict:
    """A Parquet row with TFDS's values for what is missing; NaN equals NaN as text."""
    out = {}
    for name, value in row.items():
        if value is None:
            value = math.nan if name == "rating" else ""
        out[name] = "nan" if value != value else value
    return out


@pytest.fixture(scope="module", params=["gaps", "instruments"])
def dataset(request, tmp_path_factory):
    """A dataset with gaps in every column; Musical Instruments."""
    out = tmp_path_factory.mktemp("tfds") / "dataset"
    if request.param == "gaps":
        return family_world.write_world(out)
    folder = request.getfixturevalue("shared") / "data" / "amazon" / "musical_instruments"
    raw = read_raw("amazon", reviews=[folder / "reviews_Musical_Instruments_5.json.gz"])
    build_dataset(raw, out)
    return Dataset.load(out)


def test_tables_are_the_parquet_files_without_tensorflow(dataset, tmp_path, capsys):
    out = tmp_path / "tfds"
    assert cli.main(["data", "export-tfds", str(dataset.path), "--out", str(out)]) == 0
    printed = capsys.readouterr().out.split()
    assert [Path(path).parent.name.split("-")[1] for path in printed] == [
        *("users", "items", "interactions", "reviews")
    ]
    prefix = f"p5jax_dataset/{dataset.name}-"
    names = [f"{prefix}{table}:{table}" for table in ("users", "items")]
    names += [f"{prefix}{t}:{split}" for t in ("interactions", "reviews") for split in SPLITS]
    found = read_back(out, *names)
    sizes = {name: len(rows) for name, rows in found.items()}
    assert all(sizes.values())
    for table in ("users", "items", "interactions", "reviews"):
        rows = pq.read_table(dataset.path / f"{table}.parquet").to_pylist()
        assert not any(value == "" for row in rows for value in row.values())
        if table in ("users", "items"):
            expected = {f"{prefix}{table}:{table}": rows}
        else:
            expected = {
                f"{prefix}{table}:{split}": [row for row in rows if row["split"] == number]
                for number, split in enumerate(SPLITS)
            }
        for name, rows in expected.items():
            assert [filled(row) for row in found[name]] == [filled(row) for row in rows], name
    users = len(found[f"{prefix}users:users"])
    assert sizes[f"{prefix}interactions:test"] == sizes[f"{prefix}interactions:validation"] == users
    metadata = json.loads((Path(printed[0]) / "metadata.json").read_text())
    assert metadata["fingerprint"] == dataset.fingerprint
    assert metadata["manifest"] == json.loads((dataset.path / "manifest.json").read_text())


def test_an_export_is_kept_and_no_other_takes_its_place(world, tmp_path):
    out = tmp_path / "tfds"
    paths = export_tables(world.path, out)
    before = {file: file.stat().st_mtime_ns for path in paths for file in path.iterdir()}
    assert export_tables(world.path, out) == paths
    assert {f: f.stat().st_mtime_ns for path in paths for f in path.iterdir()} == before
    other = tmp_path / "other"
    build_dataset(read_raw("synthetic", seed=1), other)
    with pytest.raises(UserError, match="choose another folder") as caught:
        export_tables(other, out)
    assert world.fingerprint[:12] in str(caught.value)
    assert Dataset.load(other).fingerprint[:12] in str(caught.value)
    assert {f: f.stat().st_mtime_ns for path in paths for f in path.iterdir()} == before


def test_an_export_needs_no_tensorflow_either(world, tmp_path):
    program = "from p5jax.cli import main; sys.exit(main.main(sys.argv[1:]))"
    words = ["data", "export-tfds", str(world.path), "--out", str(tmp_path)]
    printed = without_tensorflow(program, *words).split()
    assert [(Path(path) / "features.json").is_file() for path in printed] == [True] * 4


@pytest.fixture(scope="module")
def records(world, tmp_path_factory):
    """The world's tables as TFRecord files."""
    pytest.importorskip("tensorflow")
    out = tmp_path_factory.mktemp("tfrecord") / "tfds"
    words = ["data", "export-tfds", str(world.path), "--out", str(out)]
    assert cli.main([*words, "--file-format", "tfrecord"]) == 0
    return out


def plain(row: dict) -> dict:
    return {n: value.decode() if isinstance(value, bytes) else value for n, value in row.items()}


def test_tfds_load_and_seqio_read_tfrecord_files(world, records):
    """The rows of the Parquet files, in their order."""
    import seqio
    import tensorflow_datasets as tfds

    rows = pq.read_table(world.path / "interactions.parquet").to_pylist()
    name = f"p5jax_dataset/{world.name}-interactions"
    for number, split in enumerate(SPLITS):
        expected = [filled(row) for row in rows if row["split"] == number]
        found = tfds.load(name, split=split, data_dir=records).as_numpy_iterator()
        assert [filled(plain(row)) for row in found] == expected
        source = seqio.TfdsDataSource(f"{name}:1.1.0", tfds_data_dir=str(records))
        assert source.num_input_examples(split) == len(expected)
        found = source.get_dataset(split, shuffle=False).as_numpy_iterator()
        assert [filled(plain(row)) for row in found] == expected


def test_the_default_format_is_the_library_s():
    arguments = COMMANDS["data export-tfds"].parse(["d", "--out", "o"])
    for function in (export_tables, write_files):
        default = inspect.signature(function).parameters["file_format"].default
        assert arguments.file_format == default == "array_record"


def test_tfrecord_files_and_others_are_not_mixed(world, records, tmp_path):
    with pytest.raises(UserError, match=r"found tfrecord files, expected array_record; choose"):
        export_tables(world.path, records)
    with pytest.raises(UserError, match=r"file format: found 'riegeli', expected array_record or"):
        export_tables(world.path, tmp_path, "riegeli")
    assert not list(tmp_path.rglob("*.riegeli*"))


def test_tfrecord_files_need_tensorflow(world, tmp_path):
    program = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "tensorflow" else find(name, *more)
from p5jax.cli import main
print(main.main(sys.argv[1:]))
"""
    words = ["data", "export-tfds", str(world.path), "--out", str(tmp_path)]
    command = [sys.executable, "-c", FORBID + program, *words, "--file-format", "tfrecord"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "2"
    assert "tfrecord needs TensorFlow; expected pip install 'p5jax[tfds,seqio]'" in done.stderr
    assert not list(tmp_path.rglob("*tfrecord*"))


def test_splits_have_names_and_amazon_data_its_citation(world, tmp_path):
    config = TableConfig(name="x", folder=str(world.path), table="reviews")
    info = DatasetTables(config=config, data_dir=tmp_path).info
    assert info.features["split"].names == list(SPLITS)
    assert [info.features["split"].str2int(name) for name in SPLITS] == [0, 1, 2]
    assert not info.citation  # synthetic
    lines = [OLD_REVIEWS[0] | {"asin": f"B{n}", "unixReviewTime": n} for n in (1, 2, 3)]
    write_lines(tmp_path / "a.json", lines)
    raw = read_raw("amazon", reviews=[tmp_path / "a.json"])
    build_dataset(raw, tmp_path / "amazon", k_core=1)
    config = TableConfig(name="y", folder=str(tmp_path / "amazon"), table="items")
    info = DatasetTables(config=config, data_dir=tmp_path).info
    assert "he2016ups" in info.citation


def test_what_is_no_dataset_is_one_line(world, tmp_path, capsys, monkeypatch):
    out = ["--out", str(tmp_path / "out")]
    assert cli.main(["data", "export-tfds", str(tmp_path / "nowhere"), *out]) == 2
    assert "not a dataset folder" in capsys.readouterr().err
    with pytest.raises(UserError, match="found 'review', expected one of users, items"):
        DatasetTables(
            config=TableConfig(name="x", folder=str(world.path), table="review"), data_dir=tmp_path
        )
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delitem(sys.modules, "p5jax.data.tfds")
    assert cli.main(["data", "export-tfds", str(world.path), *out]) == 2
    error = capsys.readouterr().err
    assert "pip install 'p5jax[tfds]'" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


OLD_REVIEWS = [
    {"reviewerID": "A1", "asin": "B1", "overall": 5.0, "unixReviewTime": 1400000000}
    | {"summary": "Good", "reviewText": "Stays in tune.\nFor days.", "reviewerName": "Ann"},
    {"reviewerID": "A2", "asin": "B2", "overall": 1, "unixReviewTime": 1300000000}
    | {"summary": "", "reviewText": "Ça va, é."},
    {"reviewerID": "A1", "asin": "B2", "overall": 3, "unixReviewTime": 1200000000},
]
OLD_METADATA = [
    {"asin": "B1", "title": "A tuner", "brand": "Maker", "category": ["Music", "Tuners"]}
    | {"price": "$9.99"}
]
NEW_REVIEWS = [
    {"user_id": "U", "parent_asin": "P", "asin": "Q", "rating": 4.0, "timestamp": 1600000000123}
    | {"title": "Fine", "text": "Does its job."}
]


def write_lines(path: Path, records: list[dict]) -> str:
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_raw_reviews_of_every_year(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "tfds"
    digests = {
        "old.json.gz": write_lines(raw / "old.json.gz", OLD_REVIEWS),
        "meta.json": write_lines(raw / "meta.json", OLD_METADATA),
        "new.jsonl": write_lines(raw / "new.jsonl", NEW_REVIEWS),
    }
    old = AmazonConfig(
        name="old", reviews=("old.json.gz",), metadata=("meta.json",), sha256=digests
    )
    new = AmazonConfig(name="new", reviews=("new.jsonl",))
    units = {}
    for config in (old, new):
        path = write_files(AmazonReviews(config=config, data_dir=out), raw)
        metadata = json.loads((path / "metadata.json").read_text())
        assert {Path(s["path"]).name: s["sha256"] for s in metadata["sources"]} == {
            name: digests[name] for name in (*config.reviews, *config.metadata)
        }
        units[config.name] = metadata["time_unit"]
        info = json.loads((path / "dataset_info.json").read_text())
        assert "https://amazon-reviews-2023.github.io/" in info["description"]
    assert units == {"old": "second", "new": "millisecond"}
    names = [f"p5jax_amazon_reviews/{config}:reviews" for config in ("old", "new")]
    found = read_back(out, *names)
    empty = dict.fromkeys(("headline", "text", "title", "brand", "categories", "price"), "")
    tuner = {"title": "A tuner", "brand": "Maker", "categories": "Music | Tuners"}
    assert found[names[0]] == [
        {"user": "A1", "item": "B1", "rating": 5.0, "timestamp": 1400000000, "headline": "Good"}
        | {"text": "Stays in tune.\nFor days.", "price": "$9.99"}
        | tuner,
        empty
        | {"user": "A2", "item": "B2", "rating": 1.0, "timestamp": 1300000000}
        | {"text": "Ça va, é."},
        empty | {"user": "A1", "item": "B2", "rating": 3.0, "timestamp": 1200000000},
    ]
    assert found[names[1]] == [
        empty
        | {"user": "U", "item": "P", "rating": 4.0, "timestamp": 1600000000123}
        | {"headline": "Fine", "text": "Does its job."}
    ]


def test_named_configurations_on_the_real_files(shared, tmp_path):
    """All reviews of two years in the files' order, their checksums those of the builder."""
    folders = {"musical_instruments_2014": "musical_instruments", "gift_cards_2018": "gift_cards"}
    for config, folder in folders.items():
        folder = shared / "data" / "amazon" / folder
        write_files(AmazonReviews(config=config, data_dir=tmp_path), folder)
    names = [f"p5jax_amazon_reviews/{config}:reviews" for config in folders]
    found = read_back(tmp_path, *names)
    files = ("musical_instruments/reviews_Musical_Instruments_5", "gift_cards/Gift_Cards_5")
    for name, file in zip(names, files, strict=True):
        with gzip.open(shared / "data" / "amazon" / f"{file}.json.gz", "rt") as lines:
            records = [json.loads(line) for line in lines]
        keys = ("user", "reviewerID"), ("item", "asin"), ("rating", "overall")
        for ours, theirs in (*keys, ("timestamp", "unixReviewTime")):
            assert [r[ours] for r in found[name]] == [r[theirs] for r in records]
        plain = [
            (row["text"], record["reviewText"].strip())
            for row, record in zip(found[name], records, strict=True)
            if not set("&<") & set(record.get("reviewText", "&"))
        ]
        assert len(plain) > 0.5 * len(records)
        assert all(ours == theirs for ours, theirs in plain)
    assert len(found[names[0]]) == 10_261
    assert len({row["title"] for row in found[names[1]]} - {""}) > 100


def test_wrong_raw_files_are_one_line(tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "tfds"
    digest = write_lines(raw / "a.json", OLD_REVIEWS)
    config = AmazonConfig(name="mine", reviews=("a.json",), sha256={"a.json": digest})

    def refused(match, config=config, folder=raw):
        builder = AmazonReviews(config=config, data_dir=out)
        with pytest.raises(UserError, match=match) as caught:
            write_files(builder, folder)
        assert "\n" not in str(caught.value)
        assert not list(out.rglob("*array_record*"))
        assert not list(out.rglob("*incomplete*"))

    refused("manual_dir: found none", folder=None)
    refused(r"nowhere does not exist or is empty; expected a folder with a.json", folder="nowhere")
    refused("no reviews", AmazonConfig(name="none"))
    refused(rf"{raw}/b.json: no such file", AmazonConfig(name="b", reviews=("b.json",)))
    with (raw / "a.json").open("a") as file:
        file.write("\n")
    refused(rf"{raw}/a.json: found SHA-256 [0-9a-f]{{64}}, expected {digest}")
    (raw / "a.json").write_text("{\n")
    refused(
        rf"{raw}/a.json:1: found a line that is not JSON", AmazonConfig("mine", reviews=("a.json",))
    )
    write_lines(raw / "a.json", OLD_REVIEWS)
    write_files(AmazonReviews(config=config, data_dir=out), raw)
    shutil.rmtree(raw)  # what is there is not made again
    write_files(AmazonReviews(config=config, data_dir=out), raw)
