"""Shards that Beam's workers write are the single machine's, whatever happens to a worker."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.beam

WORKERS = {
    "one worker": ("--runner=DirectRunner",),
    "three threads": ("--direct_num_workers=3", "--direct_running_mode=multi_threading"),
    "three processes": ("--direct_num_workers=3", "--direct_running_mode=multi_processing"),
    "every bundle twice": ("--direct_runner_bundle_repeat=1",),
}
RETRYING = "--runner=BundleBasedDirectRunner"  # DirectRunner's other runners give up
# What a worker does at the first attempt at the second file, when a third of it is written.
FAILING = """
import os, signal, sys
from pathlib import Path

from p5jax.pipeline import samples

render, flag = samples.RenderedSamples.__call__, Path(sys.argv[1])

def fail_once(self, start, count):
    if start == {start} and not flag.exists():
        flag.touch()
        {how}
    return render(self, start, count)

samples.RenderedSamples.__call__ = fail_once
from p5jax.cli.main import main
sys.exit(main(sys.argv[2:]))
"""
EPOCHS, START = 4, 3200 + 1024
LEFT = "Path(sys.argv[sys.argv.index('--out') + 1], '.draws.left.partial').touch()"
HOW = {"error": f"{LEFT}; raise OSError('lost')", "kill": "os.kill(os.getpid(), signal.SIGKILL)"}


@pytest.fixture(scope="module")
def export(world, tmp_path_factory):
    """Words of a command that exports to a folder, 3 files, and what the single machine writes."""
    pytest.importorskip("apache_beam", reason="needs apache-beam (make test-extras)")
    folder = tmp_path_factory.mktemp("export")
    words = ["data", "export-shards", "--gin_file=runs/sequential.gin", "--shards=3"]
    words += [f"--gin.DATASET={world.path}", f"--gin.RUN_DIR={folder / 'run'}"]
    words += ["--gin.RunConfig.vocabulary_size=400", f"--epochs={EPOCHS}"]
    run([*words, "--out", str(folder / "alone")])
    return words, files(folder / "alone")


def run(words, program=("-m", "p5jax.cli.main"), status=0) -> str:
    done = subprocess.run(
        [sys.executable, *program, *words],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == status, done.stderr[-3000:]
    return done.stderr


def files(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("options", WORKERS.values(), ids=WORKERS)
def test_any_number_of_workers_writes_the_same_files(export, tmp_path, options):
    words, alone = export
    assert len(alone) == 4
    run([*words, "--out", str(tmp_path / "out"), "--", *options])
    assert files(tmp_path / "out") == alone


def failing(tmp_path, how):
    """A program that runs a command in which one attempt at a file fails."""
    program = tmp_path / "failing.py"
    program.write_text(FAILING.format(how=HOW[how], start=START))
    return str(program), str(tmp_path / "failed")


def test_a_bundle_that_fails_is_done_again_and_leaves_no_duplicate(export, tmp_path):
    words, alone = export
    program = failing(tmp_path, "error")
    said = run([*words, "--out", str(tmp_path / "out"), "--", RETRYING], program)
    assert "OSError: lost" in said
    assert files(tmp_path / "out") == alone


def test_after_a_kill_the_same_command_writes_what_is_missing(export, tmp_path):
    words, alone = export
    out = tmp_path / "out"
    words = [*words, "--out", str(out), "--", "--runner=DirectRunner"]
    run(words, failing(tmp_path, "kill"), status=-9)
    left = files(out)
    written = {name for name in left if name in alone and name != "manifest.json"}
    assert len(written) == 1
    assert [name for name in left if name.endswith(".partial")]
    before = {name: (out / name).stat().st_mtime_ns for name in written}
    run(words)
    assert {name: (out / name).stat().st_mtime_ns for name in written} == before
    assert files(out) == alone


def test_what_a_worker_finds_wrong_is_one_line(export, tmp_path):
    words, _ = export
    out = ["--out", str(tmp_path / "out")]
    lengths = "--gin.PipelineConfig.source_lengths=(8,)"
    for options in (("--runner=DirectRunner",), WORKERS["three processes"]):
        said = run([*words, lengths, *out, "--", *options], status=2)
        last = said.splitlines()[-1]
        assert last.startswith("p5jax: error: prompt ")
        assert last.endswith("expected at most 8")
        assert "manifest.json" in files(tmp_path / "out")
        assert not [name for name in files(tmp_path / "out") if name.startswith("draws")]
    said = run([*words, "--out", str(tmp_path / "other"), "--", "runner"], status=2)
    assert "-- runner: found no option of Beam, expected --NAME=VALUE" in said
