"""Pairs that Beam's workers count are the single machine's, bit for bit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.beam

OPTIONS = (
    ("--runner=DirectRunner",),
    ("--direct_num_workers=3", "--direct_running_mode=multi_threading"),
    ("--direct_runner_bundle_repeat=1",),
)
# Small files, so that there are several.
PROGRAM = """
import sys
from p5jax.memory import stored_pairs
stored_pairs.ROWS = 9
from p5jax.cli.main import main
sys.exit(main(["data", "count-pairs", *sys.argv[1:]]))
"""


def counted(world, folder, *options) -> dict[str, bytes]:
    """The files that a command with Beam's options writes for a copy of a dataset."""
    shutil.copytree(world.path, folder)
    words = [str(folder), *(("--", *options) if options else ())]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", PROGRAM, *words], env=environment, check=True)
    return {file.name: file.read_bytes() for file in (folder / "pairs").iterdir()}


def test_any_number_of_workers_counts_the_same(world, tmp_path):
    pytest.importorskip("apache_beam", reason="needs apache-beam (make test-extras)")
    alone = counted(world, tmp_path / "alone")
    assert len(alone) == 8
    for number, options in enumerate(OPTIONS):
        assert counted(world, tmp_path / f"{number}", *options) == alone
