"""Shards against the draws that are rendered, and against array_record's own reader."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from test_pipeline import digests
from toy_training import train_records

from p5jax.cli import main as cli
from p5jax.core.errors import Interrupted, UserError
from p5jax.core.folder import differences
from p5jax.data.building import build_dataset
from p5jax.data.dataset import Dataset
from p5jax.data.readers.synthetic import synthetic_raw
from p5jax.pipeline.batching import Tokens
from p5jax.pipeline.config import PipelineConfig
from p5jax.pipeline.iterator import train_iterator
from p5jax.pipeline.samples import RenderedSamples
from p5jax.pipeline.shard_export import export_shards
from p5jax.pipeline.shards import Shards, encode, open_shards, record_dtype, write_shard
from p5jax.prompts.families import FamilyConfig, example_rng, make_families
from p5jax.prompts.template_files import load_templates
from p5jax.text.vocabulary import Vocabulary

RATES = {"rating": 0.5, "sequential": 0.3, "review": 0.2}
CONFIG = PipelineConfig(
    batch_size=16,
    source_lengths=(64, 160),
    target_lengths=(2, 8),
    batching="buckets",
    rates=RATES,
    window=4,
    seed=5,
)
FAMILY = FamilyConfig(max_source=160, num_candidates=20)
# Processes take seconds to start.
HOW = [{"threads": 0}, {"threads": 3}, pytest.param({"workers": 2}, marks=pytest.mark.check)]


@pytest.fixture(scope="module")
def families(world, world_vocabulary):
    return make_families(world, load_templates("amazon"), world_vocabulary, FAMILY)


@pytest.fixture(scope="module")
def rendered(families, world_vocabulary):
    return RenderedSamples(families, world_vocabulary, CONFIG)


@pytest.fixture(scope="module")
def folder(rendered, tmp_path_factory):
    """Two epochs in seven files, whose ends are no ends of windows."""
    out = tmp_path_factory.mktemp("shards") / "out"
    export_shards(rendered, out, epochs=2, shards=7, report=lambda line: None)
    return out


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the shards to damage."""
    return shutil.copytree(folder, tmp_path / "copy")


def take(families, vocabulary, config, count) -> list[str]:
    iterator = train_iterator(families, vocabulary, config)
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return digests(batches)


def lists(tokens) -> list[tuple[list[int], list[int]]]:
    return [(sample.source.tolist(), sample.target.tolist()) for sample in tokens]


def files(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("batching", ["longest", "buckets", "packed"])
def test_batches_are_those_drawn_on_the_fly(families, world_vocabulary, folder, batching):
    config = replace(CONFIG, batching=batching)
    expected = take(families, world_vocabulary, config, 30)
    assert len(set(expected)) == 30
    assert take(families, world_vocabulary, replace(config, shards=str(folder)), 30) == expected


@pytest.mark.parametrize("how", HOW)
def test_threads_and_workers_change_nothing(families, world_vocabulary, folder, how):
    expected = take(families, world_vocabulary, CONFIG, 12)
    config = replace(CONFIG, shards=str(folder), **how)
    assert take(families, world_vocabulary, config, 12) == expected


def test_processes_share_the_batches_and_a_state_goes_on(families, world_vocabulary, folder):
    config = replace(CONFIG, shards=str(folder))
    whole = train_iterator(families, world_vocabulary, CONFIG)
    halves = [train_iterator(families, world_vocabulary, config, p, 2) for p in range(2)]
    for step in range(9):
        if step == 6:  # a fresh iterator from the state of an old one
            state = json.loads(json.dumps(halves[1].get_state()))
            halves[1].close()
            halves[1] = train_iterator(families, world_vocabulary, config, 1, 2)
            halves[1].set_state(state)
        shares = [next(half) for half in halves]
        for name, array in next(whole).items():
            np.testing.assert_array_equal(np.concatenate([s[name] for s in shares]), array)
    for iterator in (whole, *halves):
        iterator.close()


def test_epochs_repeat_from_the_start(rendered, folder):
    shards = open_shards(folder, rendered)
    period = 2 * sum(rendered.families[name].size("train") for name in RATES)
    assert shards.period == period
    expected = lists(rendered(0, period))
    assert lists(shards(0, 3 * period)) == 3 * expected
    assert lists(shards(period - 2, 4)) == [*expected[-2:], *expected[:2]]
    assert lists(shards(10 * period + 17, 5)) == expected[17:22]


def test_an_epoch_without_rates_holds_every_example_once(families, world_vocabulary, tmp_path):
    few = {"rating": families["rating"]}
    rendered = RenderedSamples(few, world_vocabulary, replace(CONFIG, rates={}))
    export_shards(rendered, tmp_path / "out", shards=2, report=lambda line: None)
    shards = open_shards(tmp_path / "out", rendered)
    expected = []
    for index in range(few["rating"].size("train")):
        rng = example_rng(CONFIG.seed, 0, "rating", index)
        example = few["rating"].example("train", index, rng)
        expected.append([*world_vocabulary.encode(example.inputs), 1])
    assert sorted(source for source, _ in lists(shards(0, shards.period))) == sorted(expected)


def test_records_are_plain_numbers_in_order(rendered, folder):
    """Read with array_record's own data source and unpacked by hand."""
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["dtype"] == "<u2"
    source = ArrayRecordDataSource(sorted(map(str, folder.glob("*.array_record"))))
    assert len(source) == manifest["draws"]
    for place in (0, 1, 100, len(source) - 1):
        numbers = struct.unpack(f"<{len(source[place]) // 2}H", source[place])
        cut = 3 + numbers[0]
        assert numbers[1:3] == (0, 0)  # nothing given, no list
        assert lists(rendered(place, 1)) == [([*numbers[3:cut]], [*numbers[cut:]])]


def test_large_vocabularies_take_four_bytes(rendered, tmp_path):
    """Ids above 65,535, as a catalogue of `token` ids has."""
    assert record_dtype(65_535, 512) == np.dtype("<u2")
    dtype = record_dtype(65_536, 512)
    assert dtype == np.dtype("<u4")
    pairs = [Tokens(np.array([70_000, 1]), np.array([131_071, 1]))]
    write_shard(tmp_path / "a", [[encode(pair, dtype) for pair in pairs]])
    manifest = {"dtype": dtype.str, "files": {"a": {"draws": 1, "bytes": 0}}}
    assert lists(Shards(tmp_path, manifest)(0, 1)) == [([70_000, 1], [131_071, 1])]


@pytest.mark.parametrize("how", HOW)
def test_an_export_in_threads_or_workers_is_the_same(
    families, world_vocabulary, folder, tmp_path, how
):
    rendered = RenderedSamples(families, world_vocabulary, replace(CONFIG, **how))
    export_shards(rendered, tmp_path, epochs=2, shards=7, report=lambda line: None)
    assert files(tmp_path) == files(folder)


class Counting(RenderedSamples):
    """Counts what it renders, and sends itself a signal at a draw."""

    signal_at = -1

    def __call__(self, start, count):
        self.starts = [*getattr(self, "starts", []), start]
        if start <= self.signal_at < start + count:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__call__(start, count)


def test_an_interrupted_export_goes_on(families, world_vocabulary, folder, tmp_path):
    out = tmp_path / "out"
    rendered = Counting(families, world_vocabulary, replace(CONFIG, threads=0))
    rendered.signal_at = 2 * rendered.epoch // 2
    lines: list[str] = []
    with pytest.raises(Interrupted, match="the same command resumes") as stop:
        export_shards(rendered, out, epochs=2, shards=7, report=lines.append)
    assert stop.value.signal == signal.SIGTERM
    written = sorted(out.glob("draws-*"))
    assert 1 <= len(written) < 7
    assert all(file.suffix == ".array_record" for file in written)
    with pytest.raises(UserError, match="the export is unfinished"):
        open_shards(out, rendered)
    before = {file: file.stat().st_mtime_ns for file in written}
    rendered = Counting(families, world_vocabulary, replace(CONFIG, threads=0))
    export_shards(rendered, out, epochs=2, shards=7, report=lines.append)
    assert {file: file.stat().st_mtime_ns for file in written} == before
    assert min(rendered.starts) == len(written) * 2 * rendered.epoch // 7
    assert files(out) == files(folder)


def test_an_error_leaves_no_half_written_file(families, world_vocabulary, tmp_path):
    config = replace(CONFIG, source_lengths=(20,), threads=0)
    rendered = RenderedSamples(families, world_vocabulary, config)
    with pytest.raises(UserError, match=r"expected at most 20"):
        export_shards(rendered, tmp_path / "out", report=lambda line: None)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["manifest.json"]


def test_a_full_disk_is_one_line(tmp_path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / ".draws.partial").symlink_to(full)
    with pytest.raises(UserError, match=r"draws.partial: could not be written: .*No space left"):
        write_shard(tmp_path / "draws", [[os.urandom(3000)] * 500] * 4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.check
def test_ctrl_c_at_a_terminal_stops_an_export_with_workers(world, tmp_path):
    """A terminal sends the signal to the worker processes too."""
    out, words = tmp_path / "out", ["--gin_file=runs/sequential.gin", "--epochs=40"]
    words += [f"--gin.DATASET={world.path}", "--gin.RunConfig.vocabulary_size=400"]
    words += [f"--gin.RUN_DIR={tmp_path / 'run'}", "--shards=40", "--out", str(out)]
    command = ["data", "export-shards", *words, "--gin.PipelineConfig.workers=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "p5jax.cli.main", *command],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not (out / "draws-00002-of-00040.array_record").exists():
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + signal.SIGINT, error
    assert "the same command resumes" in error
    assert "Traceback" not in error
    assert not list(out.glob("*.partial"))
    assert len(list(out.glob("draws-*"))) < 40
    assert cli.main(["data", "export-shards", *words]) == 0
    assert len(list(out.glob("draws-*"))) == 40


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 6}, "seed = 5, expected 6"),
        ({"target_lengths": (2, 9)}, "target_length = 8, expected 9"),
        ({"source_lengths": (64, 170)}, "source_length = 160, expected 170"),
        (
            {"rates": RATES | {"review": 0.7}},
            "families.rating.rate = '5000 of 10000', expected '3333 of 10000'",
        ),
        ({"rates": {"rating": 1.0}}, "expected '10000 of 10000' (and 2 more); choose another"),
    ],
)
def test_other_settings_are_refused(families, world_vocabulary, folder, change, named):
    config = replace(CONFIG, shards=str(folder), **change)
    with pytest.raises(UserError) as caught:
        train_iterator(families, world_vocabulary, config)
    assert str(caught.value).startswith(f"{folder}: found ")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_data_are_refused(world, world_vocabulary, families, folder, tmp_path):
    def named(families, vocabulary=world_vocabulary) -> set[str]:
        config = replace(CONFIG, shards=str(folder))
        with pytest.raises(UserError, match="choose another folder") as caught:
            train_iterator(families, vocabulary, config)
        there = json.loads((folder / "manifest.json").read_text())["stream"]
        rendered = RenderedSamples(families, vocabulary, CONFIG)
        names = [name for name, *_ in differences(there, rendered.identity())]
        assert f"{folder}: found {names[0]} = " in str(caught.value)
        return set(names)

    amazon = load_templates("amazon")
    other = FamilyConfig(max_source=160, num_candidates=20, max_history=3)
    assert named(make_families(world, amazon, world_vocabulary, other)) == {
        "family_config.max_history"
    }
    fewer = {id: t for id, t in amazon.items() if id != "1-1"}
    assert named(make_families(world, fewer, world_vocabulary, FAMILY)) == {
        "families.rating.templates"
    }
    vocabulary = Vocabulary.train(["another text with words"], 300, world.id_tokens)
    assert named(families, vocabulary) == {"vocabulary"}
    build_dataset(
        synthetic_raw(users=120, items=60, seed=0), tmp_path / "data", scheme="random", seed=0
    )
    again = Dataset.load(tmp_path / "data")
    assert "dataset" in named(make_families(again, amazon, world_vocabulary, FAMILY))


def test_prompts_that_are_rendered_otherwise_now_are_refused(
    families, world_vocabulary, folder, monkeypatch
):
    """The manifest is the same, the code is not."""
    encode = Vocabulary.encode
    monkeypatch.setattr(Vocabulary, "encode", lambda self, text: [*encode(self, text), 7])
    config = replace(CONFIG, shards=str(folder))
    with pytest.raises(UserError, match="sample 0 differs from the prompt that is rendered now"):
        train_iterator(families, world_vocabulary, config)


def test_damaged_folders_are_refused(rendered, copy, tmp_path):
    def refused(match):
        with pytest.raises(UserError, match=match) as caught:
            open_shards(copy, rendered)
        assert "\n" not in str(caught.value)

    first, second = sorted(copy.glob("*.array_record"))[:2]
    whole = first.read_bytes()
    first.write_bytes(whole[:-100])
    refused(rf"{first}: found {len(whole) - 100} bytes, expected {len(whole)} bytes")
    flipped = bytearray(whole)
    flipped[200] ^= 0xFF
    first.write_bytes(flipped)
    refused(rf"{first}: found damaged records")
    first.unlink()
    refused(rf"{first}: found no file, expected {len(whole)} bytes")
    # What the message says: the same export writes the missing file again.
    kept = second.stat().st_mtime_ns
    export_shards(rendered, copy, epochs=2, shards=7, report=lambda line: None)
    assert first.read_bytes() == whole
    assert second.stat().st_mtime_ns == kept
    open_shards(copy, rendered)
    manifest = copy / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"shard_format": 2', '"shard_format": 9'))
    refused("found shard_format 9, expected 2")
    for junk in ("{", "[]", '{"format_version": 1, "name": "a dataset"}'):
        manifest.write_text(junk)
        refused("expected what p5jax data export-shards writes")
    manifest.unlink()
    refused("not a folder of shards")
    with pytest.raises(UserError, match="not a folder of shards"):
        open_shards(tmp_path / "nowhere", rendered)


def test_an_export_takes_no_folder_of_other_things(rendered, copy, tmp_path):
    def refused(match, out, **how):
        before = files(out) if out.is_dir() else None
        with pytest.raises(UserError, match=match):
            export_shards(rendered, out, report=lambda line: None, **how)
        assert (files(out) if out.is_dir() else None) == before

    refused("epochs = 2, expected 3", copy, epochs=3, shards=7)
    refused("shards = 7, expected 6", copy, epochs=2, shards=6)
    refused("0 epochs", tmp_path / "a", epochs=0)
    refused("in 0 shards", tmp_path / "a", shards=0)
    refused("at most", tmp_path / "a", shards=10**6)
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    refused("is not a folder of shards", tmp_path / "b")
    refused("is not a folder of shards", tmp_path / "b" / "notes.txt")


def test_a_state_of_rendered_draws_is_refused(families, world_vocabulary, folder):
    """Past the last shard the two streams differ."""
    state = train_iterator(families, world_vocabulary, CONFIG).get_state()
    config = replace(CONFIG, shards=str(folder))
    with pytest.raises(UserError, match="found period = None, expected"):
        train_iterator(families, world_vocabulary, config).set_state(state)


def test_training_from_shards_is_training(world, tmp_path, capsys):
    """The commands: export, train from the shards, train without, and get the same losses."""
    sizes = ("emb_dim=16", "mlp_dim=16", "num_encoder_layers=1", "num_decoder_layers=1")
    words = [f"--gin.T5Config.{size}" for size in sizes]
    words += ["--gin_file=runs/sequential.gin", "--gin_file=models/tiny.gin", "--gin.STEPS=4"]
    words += ["--gin.BATCH_SIZE=4", "--gin.PipelineConfig.window=2"]
    words += [f"--gin.DATASET={world.path}", "--gin.RunConfig.vocabulary_size=400"]
    words += ["--gin.ValidationConfig.rank_users=0", "--gin.ValidationConfig.examples=8"]
    words += ["--gin.TrainConfig.log_every=1", "--gin.TrainConfig.best_metric=validation/loss"]
    words += ["--gin.TrainConfig.best_mode=min", "--gin.PipelineConfig.source_lengths=(128,)"]
    shards, runs = tmp_path / "shards", [tmp_path / "read", tmp_path / "drawn"]
    export = ["data", "export-shards", *words, f"--gin.RUN_DIR={runs[0]}", "--out", str(shards)]
    assert cli.main([*export, "--shards", "3"]) == 0
    assert "prompts in 3 files" in capsys.readouterr().err
    read = ["train", *words, f"--gin.PipelineConfig.shards={shards}"]
    assert cli.main([*read, f"--gin.RUN_DIR={runs[0]}"]) == 0
    assert cli.main(["train", *words, f"--gin.RUN_DIR={runs[1]}"]) == 0
    records = [train_records(run) for run in runs]
    losses = [record["train/loss"] for record in records[0] if "train/loss" in record]
    assert len(set(losses)) == 4
    assert records[0] == records[1]
    shards = shards.rename(tmp_path / "moved")
    read[-1] = f"--gin.PipelineConfig.shards={shards}"
    assert cli.main([*read, f"--gin.RUN_DIR={runs[0]}", "--gin.TrainConfig.log_every=2"]) == 0
    assert cli.main([*read, f"--gin.RUN_DIR={tmp_path / 'other'}", "--gin.SEED=1"]) == 2
    assert "seed = 0, expected 1" in capsys.readouterr().err
    assert cli.main([*export, "--bad"]) == 2
    assert "unknown argument '--bad'" in capsys.readouterr().err
    assert cli.main(["data", "inspect", str(world.path), "--gin.SEED=1"]) == 2
    assert "unknown argument '--gin.SEED=1'" in capsys.readouterr().err
