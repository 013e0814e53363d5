"""Exported programs give what the recommender gives, with jax and numpy alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from served import served_run

from p5jax.cli.main import main
from p5jax.core.errors import UserError
from p5jax.jobs.export import export
from p5jax.pipeline.batching import padded
from p5jax.serving.exported import export_programs
from p5jax.serving.loader import Programs
from p5jax.serving.question import Case, Question
from p5jax.serving.recommender import Recommender
from p5jax.serving.settings import ProgramsConfig

K, USERS = 7, 10
# Fewer items than there are: some lists are guaranteed, and some are not.
CONFIG = ProgramsConfig(beam=48, batch_size=1)
# As on a machine without p5jax and what it needs: all but jax and what jax needs.
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"p5jax", "flax", "optax", "orbax", "sentencepiece", "pyarrow"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, ".")
import json
from load import Programs
programs = Programs(".")
keys, logp, guaranteed = programs.recommend(list(programs.users), 7)
print(json.dumps([keys, logp.tolist(), guaranteed.tolist()]))
"""


@pytest.fixture(scope="module")
def recommender(world, tmp_path_factory) -> Recommender:
    """Of prompts cut to 32 tokens: one program serves all."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    return Recommender(served_run(world, folder, "2-3", max_source=32))


@pytest.fixture(scope="module")
def folder(recommender, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "programs"
    export_programs(recommender, out, CONFIG, report=lambda line: None)
    return out


@pytest.fixture(scope="module")
def programs(folder) -> Programs:
    return Programs(folder)


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def assert_same(recommended, keys, logp, guaranteed):
    assert [[each.item for each in one.items] for one in recommended] == keys
    scores = [[each.log_probability for each in one.items] for one in recommended]
    for own, found in zip(scores, np.asarray(logp), strict=True):
        np.testing.assert_allclose(found[: len(own)], own, rtol=2e-5)
    assert [one.exact for one in recommended] == list(guaranteed)


def test_the_programs_give_what_the_recommender_gives(recommender, programs):
    users = recommender.run.dataset.user_keys[:USERS]
    found = programs.recommend(users, K)
    assert 0 < sum(found[2]) < USERS
    assert_same(recommender.recommend(users, K, beam=CONFIG.beam, memory=False), *found)


def test_any_prompt_and_any_items_to_exclude(recommender, programs):
    dataset = recommender.run.dataset
    question = Question(history=dataset.item_keys[3:6], exclude=dataset.item_keys[10:40])
    case = Case.of(dataset, question)
    (asked,) = recommender.prompted([case], ("2-3",))
    excluded = padded([[*case.history, *case.blocked]], -1)
    items, logp, guaranteed = programs.rank([asked.prompts[0].tokens], excluded, K)
    keys = [[dataset.item_keys[item] for item in items[0]]]
    # As many as in the test above, whose program serves this one, too.
    own = recommender.recommend([question] * USERS, K, beam=CONFIG.beam, memory=False)
    assert_same(own[:1], keys, logp, guaranteed)
    everything = np.arange(dataset.num_items)[None]
    items, logp, guaranteed = programs.rank([[5, 1]], everything, K)
    assert (items == -1).all()
    assert np.isneginf(logp).all()
    assert guaranteed.all()
    assert [len(each) for each in programs.recommend([], K)] == [0, 0, 0]


@pytest.mark.check
@pytest.mark.parametrize("prompt", ["2-3", "L-1"])
def test_the_folder_needs_no_p5jax(world, prompt, tmp_path):
    """Several lengths and rows, and a prompt whose answer begins with the history."""
    run = served_run(world, tmp_path / "run", prompt)
    out = tmp_path / "programs"
    export(run, out, file_format="jax", programs=ProgramsConfig(beam=16, batch_size=32))
    elsewhere = shutil.move(out, tmp_path / "elsewhere")
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE],
        cwd=elsewhere,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    own = Recommender(run).recommend(world.user_keys, K, beam=16, memory=False)
    assert_same(own, *json.loads(done.stdout))


def test_what_a_caller_gets_wrong_is_said(programs):
    items = len(programs.item_keys)
    for given, message in (
        (([[5, 1]], None, 0), r"^k: found 0, expected 1 to 48$"),
        (([[5, 1]], None, 49), r"^k: found 49, expected 1 to 48$"),
        (([5, 1], None), r"^tokens: found the shape \(2,\), expected \(2, 32 at most\)$"),
        (([[5] * 33], None), r"^tokens: found the shape \(1, 33\)"),
        (([[5, 10**6]], None), r"^tokens: found 5 to 1000000, expected 0 to \d+$"),
        (([[5, 1]], [[items]]), rf"^exclude: found items {items} to {items}, expected -1 to"),
        (([[5, 1]], [[1], [2]]), r"^exclude: found the shape \(2, 1\), expected \(1, \d+ at most"),
        (([[5, 1]], None, 3, [[0, 5]]), r"^begun: found the shape \(1, 2\), expected \(1, 1 at"),
    ):
        with pytest.raises(ValueError, match=message):
            programs.rank(*given)
    with pytest.raises(ValueError, match=r"^user 'nobody': found no such user"):
        programs.recommend(["nobody"])


def test_a_folder_that_cannot_be_read_is_said(copy, tmp_path):
    program = next(copy.glob("*.bin"))
    manifest = json.loads((copy / "programs.json").read_text())

    def refused(message):
        with pytest.raises(ValueError, match=message) as caught:
            Programs(copy).rank([[5, 1]])
        assert "\n" not in str(caught.value)

    def told(**changes):
        (copy / "programs.json").write_text(json.dumps(manifest | changes))

    told(calling_convention=99, jax="9.9")
    refused(r"copy: found programs of jax 9\.9, which jax .* does not read; export the run again")
    told(format_version=2)
    refused(r"copy: found programs of format 2, expected programs of format 1")
    told()
    half = program.read_bytes()[: program.stat().st_size // 2]
    program.write_bytes(half)
    refused(r"\.bin: is not as it was exported; copy it again")
    files = manifest["files"] | {program.name: hashlib.sha256(half).hexdigest()}
    told(files=files)
    refused(r"\.bin: found a program of jax .* does not read \(\w+\)")
    told()
    (copy / "trie.npz").unlink()
    refused(r"trie\.npz: found no such file")
    (copy / "programs.json").unlink()
    refused(r"copy: found no programs\.json, expected programs of format 1")


def test_what_cannot_be_exported_is_refused(recommender, tmp_path, capsys):
    run, out = recommender.run, tmp_path / "out"
    for given, message in (
        ({"file_format": "onnx"}, r"file_format: found 'onnx', expected huggingface or jax"),
        ({"file_format": "jax", "drop_whole_words": True}, r"drop_whole_words: .* format jax"),
        ({"programs": CONFIG}, r"beam: found 48 with format huggingface, expected format jax"),
        ({"file_format": "jax", "programs": ProgramsConfig("2-99")}, r"2-99"),
    ):
        with pytest.raises(UserError, match=message):
            export(run, out, **given)
    assert not out.exists()
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"out: exists and is not a folder of programs"):
        export(run, out, file_format="jax")
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "thesis.txt"]
    assert main(["export", str(run.path), "--out", str(out), "--format", "onnx"]) == 2
    assert "--format: invalid choice: 'onnx'" in capsys.readouterr().err
