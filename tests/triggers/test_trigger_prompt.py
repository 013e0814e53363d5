"""A stopped search resumes to the same tokens; the saved prompt, and what it is used for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trigger_run import random_run

from p5jax.core.errors import Interrupted, UserError
from p5jax.serving.recommender import Recommender
from p5jax.serving.settings import BulkConfig
from p5jax.triggers.layout import Layout
from p5jax.triggers.prompt import load_triggers, run_fingerprints, save_triggers
from p5jax.triggers.searching import search
from p5jax.triggers.settings import SearchConfig, SurrogateConfig


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    return random_run(world.path, tmp_path_factory.mktemp("triggers") / "run")


def lively(**changes):
    """A search that changes task tokens and user tokens, which a careful one of noise does not."""
    surrogate = SurrogateConfig(batch_size=16, max_length=8)
    settings = {"gradient_examples": 16, "epochs": 4, "candidates": 20, "surrogate": surrogate}
    settings |= {"accept_level": 1.0, "racing_level": 0.0}
    return SearchConfig("sequential", Layout(3, 1), **(settings | changes))


def history(folder):
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("search") / "uninterrupted"
    search(run, lively(), out, report=lambda line: None)
    assert {r["kind"] for r in history(out) if r["accepted"]} == {"task", "user"}
    assert table_of(out)[1]
    return out


def table_of(folder):
    manifest = json.loads((folder / "triggers.json").read_text())
    return manifest["task_tokens"], pq.read_table(folder / manifest["users"]).to_pylist()


@pytest.mark.parametrize(
    "rounds", [1, *(pytest.param(number, marks=pytest.mark.check) for number in (4, 6))]
)
def test_a_killed_search_resumes_to_the_same_tokens(run, finished, tmp_path, monkeypatch, rounds):
    """Killed between writing the history and the state of round `rounds` + 1, at the worst."""

    class Killed(BaseException):
        pass

    out, count = tmp_path / "killed", iter(range(100))

    def dying(*arguments):
        if next(count) == rounds:
            raise Killed
        save_triggers(*arguments)

    monkeypatch.setattr("p5jax.triggers.searching.save_triggers", dying)
    with pytest.raises(Killed):
        search(run, lively(), out, report=lambda line: None)
    monkeypatch.undo()
    search(run, lively(), out, report=lambda line: None)
    assert table_of(out) == table_of(finished)
    assert history(out) == history(finished)


@pytest.mark.check
def test_a_search_killed_by_the_system_resumes_to_the_same_tokens(run, world, finished, tmp_path):
    """kill -9 of a process in mid-search; another one ends it."""
    script = (
        "import sys; from test_trigger_prompt import lively; from trigger_run import random_run;"
        "from p5jax.triggers.searching import search;"
        "search(random_run(*sys.argv[1:3]), lively(), sys.argv[3])"
    )
    out = tmp_path / "killed"
    command = [sys.executable, "-c", script, str(world.path), str(tmp_path / "run"), str(out)]
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here}:{here.parent}"}
    victim = subprocess.Popen(command, env=environment)
    lines = out / "history.jsonl"
    deadline = time.monotonic() + 120
    while not (lines.is_file() and lines.read_text().count("\n") >= 3):
        assert victim.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victim.kill()
    assert victim.wait() == -9
    assert not json.loads((out / "triggers.json").read_text())["finished"]
    subprocess.run(command, env=environment, check=True, timeout=240)
    assert table_of(out) == table_of(finished)
    assert history(out) == history(finished)


def test_a_signal_stops_after_a_round_and_the_same_call_resumes(run, finished, tmp_path):
    def stopping(line):
        if line.startswith("round 3 "):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(
        Interrupted, match="stopped after round 3; the same command resumes"
    ) as stop:
        search(run, lively(), tmp_path / "stopped", stopping)
    assert stop.value.signal == signal.SIGTERM
    assert len(history(tmp_path / "stopped")) == 3
    lines = []
    search(run, lively(), tmp_path / "stopped", lines.append)
    assert lines[0] == "resuming after round 3"
    assert table_of(tmp_path / "stopped") == table_of(finished)
    assert history(tmp_path / "stopped") == history(finished)
    search(run, lively(), tmp_path / "stopped", lines.append)
    assert lines[-1].endswith("this search is finished")


def test_a_signal_in_the_last_round_is_heard(run, finished, tmp_path):
    last = len(history(finished))

    def stopping(line):
        if line.startswith(f"round {last} "):
            os.kill(os.getpid(), signal.SIGINT)

    text = f"finished round {last}, then stopped; the same command resumes what follows"
    with pytest.raises(Interrupted, match=text) as stop:
        search(run, lively(), tmp_path / "stopped", stopping)
    assert stop.value.signal == signal.SIGINT
    assert table_of(tmp_path / "stopped") == table_of(finished)
    lines = []
    search(run, lively(), tmp_path / "stopped", lines.append)
    assert lines == [f"{tmp_path / 'stopped'}: this search is finished"]


def test_the_folder_has_the_format_of_version_1(run, finished):
    """The keys that folders written so far have; others, but for a fingerprint of the tokens that
    need not be there, need another version."""
    manifest = json.loads((finished / "triggers.json").read_text())
    assert manifest["format_version"] == 1
    assert set(manifest) - {"fingerprint"} == {
        "format_version", "family", "layout", "task_tokens", "default_user_tokens", "prompt",
        "users", "identity", "round", "state", "settings", "finished",
    }  # fmt: skip
    assert set(manifest["state"]) == {"round", "epoch", "left", "idle", "changed", "tried"}
    assert manifest["round"] == manifest["state"]["round"] == len(history(finished))
    assert manifest["settings"] == json.loads(json.dumps(asdict(lively())))
    assert manifest["layout"] == asdict(lively().layout)
    words = [run.vocabulary.decode([token]) for token in manifest["task_tokens"]]
    assert manifest["prompt"] == " ".join(["{uid} {hist}", *words, "{trigger}"])
    files = {"triggers.json", "history.jsonl", f"users-{manifest['round']}.parquet"}
    assert {path.name for path in finished.iterdir()} == files


def test_a_saved_prompt_comes_back(run, finished, world):
    prompt = load_triggers(finished, run)
    manifest = json.loads((finished / "triggers.json").read_text())
    assert manifest["identity"] == run_fingerprints(run)
    assert prompt.task.tolist() == manifest["task_tokens"]
    table = {row["user"]: row for row in table_of(finished)[1]}
    words = prompt.user_words(run.vocabulary)
    for user, key in enumerate(world.user_keys):
        expected = table[key]["tokens"] if key in table else manifest["default_user_tokens"]
        assert prompt.users[user].tolist() == expected
        assert run.vocabulary.encode(words[user]) == expected


def test_folders_that_do_not_fit_are_refused(run, finished, world, tmp_path):
    def broken(change):
        copy = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(finished, copy)
        manifest = json.loads((copy / "triggers.json").read_text())
        change(copy, manifest)
        (copy / "triggers.json").write_text(json.dumps(manifest))
        with pytest.raises(UserError) as caught:
            load_triggers(copy, run)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def other_vocabulary(folder, manifest):
        manifest["identity"]["vocabulary"] = "0" * 64

    def corrupted(folder, manifest):
        table = folder / manifest["users"]
        table.write_bytes(table.read_bytes()[:20])

    def stranger(folder, manifest):
        rows = {"user": ["nobody"], "tokens": [manifest["default_user_tokens"]], "words": ["x"]}
        pq.write_table(pa.table(rows), folder / manifest["users"])

    def no_word(folder, manifest):
        manifest["task_tokens"][0] = 1

    assert "found with vocabulary 000000000000" in broken(other_vocabulary)
    assert "expected the users' table" in broken(corrupted)
    assert "nobody" in broken(stranger)
    assert "token 1, expected one that is a whole word" in broken(no_word)
    with pytest.raises(UserError, match=r"not a trigger search \(no triggers\.json\)"):
        load_triggers(tmp_path / "nowhere", run)
    with pytest.raises(UserError, match=r"found settings\.seed = 0, expected 1"):
        search(run, lively(seed=1), finished, report=lambda line: None)
    other = random_run(world.path, tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"found identity\.params = '"):
        search(other, lively(), finished, report=lambda line: None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(UserError, match="exists and is not a trigger search"):
        search(run, lively(), tmp_path / "mine", report=lambda line: None)


@pytest.mark.check
def test_every_user_is_ranked_with_the_users_own_triggers(run, finished, tmp_path):
    """In bulk as one by one; the folder remembers by which prompt."""
    prompt = load_triggers(finished, run)
    recommender = Recommender(run, prompt)
    settings = BulkConfig(k=3, method="exact", batch_size=32)
    recommender.recommend_all(tmp_path / "all", settings, lambda line: None)
    rows = {row["user"]: row for row in pq.read_table(tmp_path / "all").to_pylist()}
    changed = np.flatnonzero((prompt.users != prompt.default).any(axis=1))[:3]
    users = [run.dataset.user_keys[user] for user in changed]
    for user, alone in zip(users, recommender.recommend(users, 3, method="exact"), strict=True):
        assert rows[user]["log_probabilities"] == pytest.approx(
            [item.log_probability for item in alone.items], abs=1e-4
        )
    with pytest.raises(UserError, match="found triggers = "):
        Recommender(run).recommend_all(tmp_path / "all", settings, lambda line: None)


def test_a_text_too_long_keeps_the_triggers_behind_it(run, finished):
    prompt = load_triggers(finished, run)
    text, longest = "user buys a toy " * 200, run.family_config.max_source
    triggers = [*prompt.task.tolist(), *prompt.default.tolist()]
    kept = run.vocabulary.encode(text)[: longest - len(triggers) - 1]
    found = Recommender(run, prompt).text_prompt(text)
    assert found == [*kept, *triggers, run.vocabulary.eos_id]
