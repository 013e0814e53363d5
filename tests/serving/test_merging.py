"""Shards of a ranking that independent jobs made: joined, they are what one job makes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

import p5jax
from p5jax.cli.main import main
from p5jax.core.shard import Shard
from p5jax.serving.bulk import RANKING_FOLDER, rank_users
from p5jax.serving.ranker import Prompted
from p5jax.serving.settings import BulkConfig

CONFIG = BulkConfig(k=3, batch_size=2)  # parts of 32 users


class Invented:
    """Ranks by a rule instead of a model: user u's best item is u, then u + 1, ..."""

    triggers = memory = None

    def __init__(self, dataset):
        model = SimpleNamespace(config=SimpleNamespace(likelihood="vocabulary"))
        self.run = SimpleNamespace(dataset=dataset, params={"w": np.zeros(1)}, model=model)

    def check_k(self, k):
        """Take any."""

    def next_item_prompts(self, prompts):
        return ("2-3",)

    def trie(self, prompt, method):
        """Have none."""

    def prompted(self, cases, prompts):
        return [
            Prompted(case, (SimpleNamespace(tokens=[0] * len(case.history)),)) for case in cases
        ]

    def ranked(self, asked, config):
        size = self.run.dataset.num_items
        users = [each.case.user for each in asked]
        items = np.array([[(user + n) % size for n in range(config.k)] for user in users])
        return SimpleNamespace(items=items, logp=-items / 7.0, exact=np.ones(len(users), bool))


def rank(world, out: Path, shard: str | None = None) -> Path:
    rank_users(Invented(world), out, CONFIG, len, shard)
    return out


@pytest.fixture
def shards(world, tmp_path) -> list[Path]:
    return [rank(world, tmp_path / f"shard{number}", f"{number}/4") for number in range(1, 5)]


def merged(folders, out, capsys) -> str:
    """The error of a merge, "" where there is none."""
    status = main(["merge", *map(str, folders), "--out", str(out)])
    lines = capsys.readouterr().err.strip().splitlines()
    assert (status, len(lines)) in ((0, 0), (2, 1))
    return "".join(lines)


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_merged_shards_are_one_job_row_for_row(world, tmp_path, capsys, count):
    one = rank(world, tmp_path / "one")
    folders = [rank(world, tmp_path / f"{n}", f"{n}/{count}") for n in range(count, 0, -1)]
    written = [len([*folder.glob("part-*")]) for folder in folders]
    assert sum(written) == len([*one.glob("part-*")]) == 4
    assert max(written) - min(written) <= 1
    out = tmp_path / "all"
    for _ in range(2):  # again, it finds all done
        assert not merged(folders, out, capsys)
        assert [file.name for file in sorted(out.glob("part-*"))] == [
            file.name for file in sorted(one.glob("part-*"))
        ]
        assert pq.read_table(out).equals(pq.read_table(one))
        assert RANKING_FOLDER.read(out) == RANKING_FOLDER.read(one)


def test_a_shard_and_a_whole_ranking_do_not_share_a_folder(world, shards):
    for shard in (None, "2/4", "1/3"):
        with pytest.raises(p5jax.UserError, match="found shard = '1/4', expected"):
            rank(world, shards[0], shard)


def test_a_merge_of_anything_but_each_shard_once_writes_nothing(world, shards, tmp_path, capsys):
    out = tmp_path / "out"
    message = merged([shards[0], shards[3]], out, capsys)
    assert "shard 2/4, 3/4 is missing, found 1/4, 4/4; p5jax rank --shard 2/4 makes it" in message
    assert "shard1: found shard 1/4, as" in merged([*shards, tmp_path / "shard1/"], out, capsys)
    whole = rank(world, tmp_path / "whole")
    assert "found no shard, expected what p5jax rank" in merged([whole], out, capsys)
    assert "not a folder of recommendations" in merged([tmp_path / "none"], out, capsys)
    third = rank(world, tmp_path / "third", "2/3")
    assert "found shards = 3, expected 4" in merged([shards[0], third], out, capsys)
    half = tmp_path / "half"
    shutil.copytree(shards[1], half)
    others = [shards[0], half, *shards[2:]]
    file = half / RANKING_FOLDER.manifest
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps(manifest | {"params": "others"}))
    assert "found params = 'others', expected" in merged(others, out, capsys)
    file.write_text(json.dumps(manifest | {"shard": "9/4"}))
    assert "found '9/4', expected I/N with I from 1 to N" in merged(others, out, capsys)
    file.write_text(json.dumps(manifest))
    part = half / "part-00001.parquet"
    pq.write_table(pq.read_table(part).slice(1), part)
    assert "found 31 rows, expected 32" in merged(others, out, capsys)
    part.unlink()
    assert "missing: shard 2/4 is not finished" in merged(others, out, capsys)
    assert not out.exists()


@pytest.mark.parametrize("shard", ["0/4", "5/4", "4", "a/b", "1/", "-1/2", "1/9999999999"])
def test_a_shard_that_is_none_is_refused(world, tmp_path, shard):
    with pytest.raises(p5jax.UserError, match="shard: found .*, expected I/N with I from 1 to N"):
        rank(world, tmp_path / "out", shard)
    assert str(Shard.read("2/4")) == "2/4"
    assert not (tmp_path / "out").exists()
