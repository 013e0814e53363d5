"""Every user's recommendations: real, new, the same as one by one, and resumable."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tiny_training import BATCH_SIZE, BINDINGS, FILES, STEPS

import p5jax
from p5jax.cli.main import main
from p5jax.core.errors import Interrupted
from p5jax.jobs.train import train
from p5jax.runs.run import Run
from p5jax.serving.bulk import RANKING_FOLDER, rank_users
from p5jax.serving.recommender import Recommender
from p5jax.serving.settings import BulkConfig

K = 7
# 16 batches are a part: parts of 32 users. The second of two widths has room for all 60 items.
COMMAND = ("-k", str(K), "--beam", "16", "--exact", "--batch-size", "2")
CONFIG = BulkConfig(k=K, beam=16, exact=True, batch_size=2)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    macros = {"DATASET": world.path, "RUN_DIR": path, "STEPS": STEPS, "BATCH_SIZE": BATCH_SIZE}
    train(*FILES, bindings=BINDINGS, **macros)
    return path


@pytest.fixture(scope="module")
def ranked(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("ranked") / "all"
    assert main(["rank", str(run), "--out", str(out), *COMMAND]) == 0
    return out


def test_every_user_gets_k_distinct_new_items_of_the_catalogue(world, ranked):
    rows = pq.read_table(ranked).to_pylist()
    assert sorted(row["user"] for row in rows) == sorted(world.user_keys)
    for row in rows:
        items = [world.item_index(key) for key in row["items"]]
        assert len(set(items)) == len(items) == K
        assert not set(items) & set(world.sequence(world.user_index(row["user"])).tolist())
        assert row["log_probabilities"] == sorted(row["log_probabilities"], reverse=True)
        assert row["exact"]


@pytest.mark.check
def test_bulk_is_what_each_user_gets_alone_by_the_exact_method(world, run, ranked):
    rows = {row["user"]: row for row in pq.read_table(ranked).to_pylist()}
    users = world.user_keys[::17]
    for user, alone in zip(users, p5jax.load(run).recommend(users, K, method="exact"), strict=True):
        assert alone.exact
        assert rows[user]["log_probabilities"] == pytest.approx(
            [item.log_probability for item in alone.items], abs=1e-4
        )


@pytest.mark.check
def test_a_start_cut_short_is_taken_up_and_nobody_gets_nothing(run, tmp_path, ranked):
    (tmp_path / f"{RANKING_FOLDER.manifest}.partial").write_text("{")
    p5jax.load(run).recommend_all(tmp_path, CONFIG, len)
    assert pq.read_table(tmp_path).equals(pq.read_table(ranked))
    assert p5jax.load(run).recommend([]) == []


@pytest.mark.check
def test_blocked_items_are_not_recommended(world, run):
    recommender, user = p5jax.load(run), world.user_keys[3]
    first = recommender.recommend([user], 3, exact=True)[0].items
    blocked = first[0].item
    again = recommender.recommend([user], 2, exact=True, exclude=[blocked])[0].items
    assert [item.item for item in again] == [item.item for item in first[1:]]


class Counting(Recommender):
    """Counts its batches, and is told to stop in one of them."""

    def __init__(self, run: Run, stop_at: int):
        super().__init__(run)
        self.batches, self.stop_at = 0, stop_at

    def ranked(self, *arguments):
        self.batches += 1
        if self.batches == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().ranked(*arguments)


@pytest.mark.check
def test_a_stopped_ranking_resumes_and_ends_the_same(run, ranked, tmp_path):
    out = tmp_path / "stopped"
    recommender = Counting(Run.load(run), stop_at=18)
    with pytest.raises(Interrupted, match="^stopped") as stopped:
        rank_users(recommender, out, CONFIG, len)
    assert stopped.value.signal == signal.SIGTERM
    written = sorted(out.glob("part-*"))
    assert [file.name for file in written] == ["part-00000.parquet"]  # the second was cut short
    stamp = written[0].stat().st_mtime_ns
    rank_users(recommender, out, CONFIG, len)
    assert written[0].stat().st_mtime_ns == stamp
    # 60 batches of 2 for 120 users; the second part's two came again.
    assert recommender.batches == 18 + 44
    assert pq.read_table(out).equals(pq.read_table(ranked))


@pytest.mark.check
def test_a_signal_in_the_last_batch_is_heard(run, ranked, tmp_path):
    recommender = Counting(Run.load(run), stop_at=60)
    with pytest.raises(Interrupted, match="^finished all files, then stopped"):
        rank_users(recommender, tmp_path, CONFIG, len)
    assert pq.read_table(tmp_path).equals(pq.read_table(ranked))
    rank_users(recommender, tmp_path, CONFIG, len)
    assert recommender.batches == 60


@pytest.mark.check
def test_shards_merged_are_one_job(run, ranked, tmp_path):
    folders = [str(tmp_path / str(number)) for number in range(1, 5)]
    for number, folder in enumerate(folders, 1):
        words = ["--shard", f"{number}/4", "--out", folder]
        assert main(["rank", str(run), *words, *COMMAND]) == 0
    assert main(["merge", *folders, "--out", str(tmp_path / "all")]) == 0
    assert pq.read_table(tmp_path / "all").equals(pq.read_table(ranked))
    assert RANKING_FOLDER.read(tmp_path / "all") == RANKING_FOLDER.read(ranked)


def test_another_ranking_or_a_strangers_folder_is_refused(run, ranked, tmp_path, capsys):
    def refused(*arguments: str) -> str:
        assert main(["rank", str(run), *arguments]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    before = sorted((file.name, file.stat().st_mtime_ns) for file in ranked.iterdir())
    assert "found k = 7, expected 5; choose another folder" in refused(
        "--out", str(ranked), *COMMAND[2:], "-k", "5"
    )
    assert sorted((file.name, file.stat().st_mtime_ns) for file in ranked.iterdir()) == before
    (tmp_path / "letter.txt").write_text("mine")
    assert "exists and is not a folder of recommendations" in refused("--out", str(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / RANKING_FOLDER.manifest).write_text("{")
    assert RANKING_FOLDER.manifest in refused("--out", str(tmp_path / "broken"))
    (tmp_path / "broken" / RANKING_FOLDER.manifest).write_text("[]")
    assert RANKING_FOLDER.manifest in refused("--out", str(tmp_path / "broken"))
    assert "exact: found it with method beam" in refused(
        "--out", str(tmp_path / "new"), "--method", "beam", "--exact"
    )
    assert "k: found 1000, expected 1 to" in refused("--out", str(tmp_path / "new"), "-k", "1000")
    assert "batch_size: found 0" in refused("--out", str(tmp_path / "new"), "--batch-size", "0")
    assert not (tmp_path / "new").exists()


def test_the_manifest_says_what_was_ranked(run, ranked):
    manifest = json.loads((ranked / RANKING_FOLDER.manifest).read_text())
    assert manifest["dataset"] == Run.load(run).dataset.fingerprint
    assert manifest["likelihood"] == "vocabulary"
    assert manifest["exact"] is True
    assert manifest["k"] == K
