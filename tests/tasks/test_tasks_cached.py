"""SeqIO's offline caching on Beam's DirectRunner: the cached examples are the uncached ones."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.beam

LENGTHS = {"inputs": 512, "targets": 64}
IN_MEMORY = "--direct_running_mode=in_memory"


def run(program: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        program,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
        env=os.environ | (environment or {}),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def rows_of(task, split, use_cached):
    rows = task.get_dataset(LENGTHS, split, use_cached=use_cached, shuffle=False)
    found = {}
    for row in rows.as_numpy_iterator():
        key = row["split"], int(row["epoch"]), int(row["index"])
        assert key not in found
        found[key] = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in row.items()
        }
    return found


def check(task, cache):
    """Compare all of a task's splits, cached and not; return how many examples they hold."""
    import seqio

    seqio.set_global_cache_dirs([str(cache)])
    task._cache_dir = None
    count = 0
    for split in task.splits:
        plain, cached = rows_of(task, split, False), rows_of(task, split, True)
        assert len(plain) == task.num_input_examples(split)
        assert cached == plain
        assert task.get_cached_stats(split)["examples"] == len(plain)
        count += len(plain)
    return count


def test_the_command_and_plain_seqio_cache_the_same(world, world_vocabulary, tmp_path):
    seqio = pytest.importorskip("seqio", reason="needs seqio (make test-extras)")
    pytest.importorskip("apache_beam", reason="needs apache-beam (make test-extras)")
    import p5jax.tasks

    world_vocabulary.save(tmp_path / "v")
    places = ["--dataset", str(world.path), "--vocabulary", str(tmp_path / "v")]
    command = [sys.executable, "-m", "p5jax.cli.main", "tasks", "cache"]
    names = ["p5_synthetic_rating", "p5_synthetic_direct_zeroshot"]
    options = ["--out", str(tmp_path / "one"), "--epochs", "2", "--seed", "3", "--shards", "2"]
    printed = run([*command, *names, *options, *places, "--", "--runner=DirectRunner", IN_MEMORY])
    assert all(f"{name}: {tmp_path / 'one' / name}" in printed for name in names)
    other = [*command, *names, *options, *places]
    other[other.index("--seed") + 1] = "4"
    refused = subprocess.run(other, capture_output=True, text=True, timeout=550, check=False)
    assert refused.returncode == 2
    assert "found seed = 3, expected 4" in refused.stderr
    name = p5jax.tasks.register(world.path, tmp_path / "v", epochs=2, seed=3)
    for task in names:
        assert check(seqio.TaskRegistry.get(task), tmp_path / "one") > 200
    # The way of SeqIO's manual, with a mixture reading what it wrote.
    plain = [sys.executable, "-m", "seqio.scripts.cache_tasks_main"]
    plain += ["--module_import=p5jax.tasks.from_environment", f"--tasks={name}_review_4_2"]
    plain += [f"--output_cache_dir={tmp_path / 'two'}", "--min_shards=1"]
    variables = {"P5JAX_DATASET": str(world.path), "P5JAX_VOCABULARY": str(tmp_path / "v")}
    run(plain, variables | {"P5JAX_EPOCHS": "2", "P5JAX_SEED": "3"})
    assert check(seqio.TaskRegistry.get(f"{name}_review_4_2"), tmp_path / "two") > 200


@pytest.mark.check
def test_musical_instruments_from_the_cache(shared, tmp_path):
    seqio = pytest.importorskip("seqio", reason="needs seqio (make test-extras)")
    pytest.importorskip("apache_beam", reason="needs apache-beam (make test-extras)")
    import p5jax.tasks
    from p5jax.cli.main import main

    folder = shared / "data" / "amazon" / "musical_instruments"
    reviews = str(folder / "reviews_Musical_Instruments_5.json.gz")
    data, vocabulary, cache = (str(tmp_path / name) for name in ("mi", "v", "c"))
    assert main(["data", "prepare", "amazon", "--reviews", reviews, "--out", data]) == 0
    assert main(["data", "vocabulary", data, "--out", vocabulary, "--size", "2000"]) == 0
    name = p5jax.tasks.register(data, vocabulary, epochs=1)
    places = ["--dataset", data, "--vocabulary", vocabulary, "--epochs", "1", "--shards", "4"]
    task = f"{name}_sequential_zeroshot"
    command = [sys.executable, "-m", "p5jax.cli.main", "tasks", "cache", task]
    run([*command, "--out", cache, *places, "--", IN_MEMORY])
    assert check(seqio.TaskRegistry.get(task), cache) == 2 * 1_429
