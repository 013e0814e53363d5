"""A machine that says no: the disk is full, the process is killed, another one is at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from p5jax.core.lock import LOCK
from p5jax.data.building import build_dataset
from p5jax.data.dataset import Dataset
from p5jax.data.readers.synthetic import synthetic_raw
from p5jax.training.checkpoints import available_steps, restore_params

pytestmark = pytest.mark.check
SETTINGS = (
    *("T5Config.emb_dim=32", "T5Config.mlp_dim=64", "T5Config.num_heads=2"),
    *("T5Config.num_encoder_layers=1", "T5Config.num_decoder_layers=1", "BATCH_SIZE=8"),
    *("RunConfig.vocabulary_size=400", "FamilyConfig.max_source=64"),
    *("PipelineConfig.source_lengths=(64,)", "ValidationConfig.rank_users=0"),
    *("TrainConfig.best_metric=validation/loss", "TrainConfig.best_mode=min"),
    "ValidationConfig.examples=8",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "data"
    build_dataset(synthetic_raw(users=40, items=30, events=(6, 9)), out, scheme="token", seed=0)
    return out


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "p5jax.cli.main", *map(str, words)]


def training(data: Path, run: Path, steps: int = 12, every: int = 2) -> list[str]:
    settings = (f"DATASET={data}", f"RUN_DIR={run}", f"STEPS={steps}", *SETTINGS)
    settings += (f"TrainConfig.checkpoint_every={every}",)
    files = "--gin_file=runs/sequential.gin", "--gin_file=models/tiny.gin"
    return command("train", *files, *(f"--gin.{setting}" for setting in settings))


def done(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


def one_line(found: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that is refused."""
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    assert "Exception" not in found.stderr
    lines = [line for line in found.stderr.splitlines() if line.startswith("p5jax: error: ")]
    assert lines == found.stderr.splitlines()[-1:]
    return lines[0]


def steps_of(run: Path) -> int:
    """The last step that is saved, 0 without any."""
    return max(available_steps(run / "checkpoints"), default=0)


def params(run: Path) -> list[np.ndarray]:
    import jax

    return jax.tree.leaves(restore_params(run / "checkpoints", which="latest"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """The run that nothing disturbs."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert done(training(data, run)).returncode == 0
    return run


@pytest.fixture
def small(tmp_path):
    """A function that gives a small disk a size in kB; skips where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("cannot mount a small disk here")

    def sized(kilobytes: int) -> Path:
        size = ["mount", "-o", f"remount,size={kilobytes}k", str(disk)]
        subprocess.run(size, check=True)
        return disk

    yield sized
    subprocess.run(["umount", str(disk)], check=True)


def test_a_training_on_a_full_disk_resumes_once_there_is_room(data, whole, small):
    """8 sizes of the disk, each a little larger than the last."""
    used = sum(file.stat().st_size for file in whole.rglob("*") if file.is_file()) // 1024
    run, kept, refusals = small(256) / "run", 0, 0
    for part in range(1, 9):
        small(256 + used * part // 8)
        found = done(training(data, run))
        if found.returncode == 0:
            break
        assert "No space left on device" in one_line(found)
        refusals += 1
        assert steps_of(run) >= kept  # nothing is lost
        kept = steps_of(run)
    assert refusals >= 2
    small(used * 4)
    assert done(training(data, run)).returncode == 0
    for found, expected in zip(params(run), params(whole), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not [path for path in run.rglob("*") if path.name.endswith((".partial", "-tmp", LOCK))]


def test_results_on_a_full_disk_are_printed(data, whole, small):
    disk = small(4096)
    subprocess.run(["cp", "-r", whole, disk / "run"], check=True)
    arguments = command("evaluate", disk / "run", "--limit", 8)
    expected = done(arguments)
    assert expected.returncode == 0
    subprocess.run(["rm", "-r", disk / "run" / "evaluation"], check=True)
    with (disk / "fill").open("wb") as file:  # all but a few kB
        left = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        file.write(bytes(left - 12_000))
    found = done(arguments)
    assert "No space left on device" in one_line(found)
    assert found.stdout == expected.stdout
    (disk / "fill").unlink()
    assert done(arguments).stdout == expected.stdout


def test_a_dataset_on_a_full_disk_stays_as_it_was(small):
    disk = small(4096)
    prepare = command("data", "prepare", "synthetic", "--out", disk / "data")
    assert done(prepare).returncode == 0
    before = Dataset.load(disk / "data").fingerprint
    with (disk / "fill").open("wb") as file:
        left = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        file.write(bytes(left - 20_000))
    assert "No space left on device" in one_line(done([*prepare, "--seed", "1"]))
    assert Dataset.load(disk / "data").fingerprint == before
    assert sorted(path.name for path in disk.iterdir()) == ["data", "fill"]


def test_one_of_two_trainings_is_refused_and_a_killed_one_resumes(data, tmp_path):
    """4 times two commands start at once; the one that is not refused is killed."""
    run, words = tmp_path / "run", training(data, tmp_path / "run", 1000, 50)
    last = 0
    for number in range(4):
        both = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        end = time.monotonic() + 200
        while time.monotonic() < end and all(each.poll() is None for each in both):
            time.sleep(0.02)
        refused, other = both if both[0].poll() is not None else reversed(both)
        error = refused.communicate()[1]
        assert refused.returncode == 2, (number, error)
        assert f"{run}: process {other.pid} on " in error
        assert len(error.splitlines()) == 1
        while time.monotonic() < end and number and steps_of(run) <= last:
            time.sleep(0.02)
        last = steps_of(run)
        assert other.poll() is None, number
        other.send_signal(signal.SIGKILL)
        other.communicate()
    assert last >= 3 * 50  # of each process but the first, a checkpoint is kept
    assert done(words).returncode == 0
    undisturbed = tmp_path / "undisturbed"
    assert done(training(data, undisturbed, 1000, 50)).returncode == 0
    for found, expected in zip(params(run), params(undisturbed), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not [path for path in run.rglob("*") if path.name.endswith((".partial", "-tmp", LOCK))]


def test_killed_preparations_leave_nothing_behind(tmp_path):
    """8 kills at different moments, then a whole preparation."""
    prepare = command("data", "prepare", "synthetic", "--out", tmp_path / "data")
    for number in range(8):
        process = subprocess.Popen(prepare, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while time.monotonic() < end and not list(tmp_path.glob(".data.partial/*")):
            time.sleep(0.002)
        time.sleep(0.01 * number)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert done(prepare).returncode == 0
    assert Dataset.load(tmp_path / "data").num_users
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
