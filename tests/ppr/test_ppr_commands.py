"""`p5jax ppr tune|evaluate|recommend|study|report|soft|compare` on a small world."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
from trigger_run import random_run

import p5jax.ppr.cold_study
from p5jax.cli.main import main
from p5jax.ppr.cold.results import read_per_user
from p5jax.training.checkpoints import Checkpoints

SIZES = [f"--gin.BackboneConfig.{size}" for size in ("emb_dim=8", "mlp_dim=8", "max_history=12")]
COLD = ["--gin.ColdStartConfig.share=0.5", "--gin.ColdStartConfig.negatives=20"]
PROFILE = ["--gin.ProfileConfig.attributes=('occupation', 'age')"]


@pytest.fixture(scope="module")
def root(world, tmp_path_factory):
    """A backbone of the warm users, and a tuned model."""
    root = tmp_path_factory.mktemp("commands")
    words = ["ppr", "pretrain", "--gin_file=ppr/sasrec.gin", "--gin.STEPS=3", *SIZES, *COLD]
    words += ["--gin.PprConfig.users=warm", f"--gin.DATASET={world.path}"]
    assert main([*words, f"--gin.RUN_DIR={root / 'warm'}"]) == 0
    assert main(tuning(root, "light")) == 0
    return root


def tuning(root, mode, *options, out=None):
    words = ["ppr", "tune", str(root / "warm"), "--out", str(root / (out or mode)), "--mode", mode]
    return [*words, "--seed", "0", "--gin.STEPS=3", *COLD, *PROFILE, *options]


def refused(capsys, *words):
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1, error
    return error


@pytest.mark.check
def test_tuned_models_are_compared_on_their_protocol_s_test_users(root, capsys):
    assert main(tuning(root, "finetune")) == 0
    capsys.readouterr()
    words = ["ppr", "evaluate", str(root / "warm"), str(root / "finetune"), str(root / "light")]
    assert main(words) == 0
    text = capsys.readouterr().out
    for method in ("finetune", "light", "pretrain", "popularity"):
        assert f"\n  {method} " in text
    assert "zero-shot, among frozen negatives: 12 cases of 12 users" in text
    assert "  - finetune" in text
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    zero_shot = [row for row in rows if row["kind"] == "zero-shot"]
    assert {row["users"] for row in zero_shot} == {12}
    assert {row["method"] for row in zero_shot} >= {"finetune", "light", "pretrain"}


def test_evaluations_are_kept_by_user(root, capsys):
    words = ["ppr", "evaluate", str(root / "warm"), str(root / "light"), "--json"]
    capsys.readouterr()
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    kept = read_per_user(root / "warm" / "evaluation" / "cold.parquet").to_pylist()
    for row in rows:
        names = ("method", "kind", "ranking")
        values = [k["AUC"] for k in kept if all(k[name] == row[name] for name in names)]
        assert row["metrics"]["AUC"][0] == pytest.approx(np.mean(values))


@pytest.mark.check
def test_a_start_that_failed_does_not_stand_in_the_way(root, capsys):
    """The same folder takes the corrected command, but none of other settings after a start."""
    words = tuning(root, "full", out="again")
    few = "--gin.TuneConfig.validation_share=0.001"
    assert "validation_share" in refused(capsys, *words, few)
    assert main(words) == 0
    assert "choose another folder" in refused(capsys, *words, few)


def test_recommendations_of_a_profile_and_of_a_user(root, world, capsys):
    words = ["ppr", "recommend", str(root / "light"), "-k", "4", "--json"]
    category = world.users["occupation"][0].as_py()
    capsys.readouterr()
    assert main([*words, "--profile", "age=30", "--profile", f"occupation={category}"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert len({item["item"] for item in items} & set(world.item_keys)) == 4
    assert main([*words, "--user", world.user_keys[3]]) == 0
    own = {world.item_keys[item] for item in world.sequence(3)}
    items = json.loads(capsys.readouterr().out)["items"]
    assert len(items) == 4
    assert not own & {item["item"] for item in items}


def test_mistakes_are_one_line(root, world, capsys, tmp_path):
    light, warm = root / "light", root / "warm"
    recommend = ("ppr", "recommend", light)
    assert "found neither" in refused(capsys, *recommend)
    assert "did you mean age" in refused(capsys, *recommend, "--profile", "aeg=3")
    assert "expected one of" in refused(capsys, *recommend, "--profile", "occupation=astronaut")
    assert "expected NAME=VALUE" in refused(capsys, *recommend, "--profile", "age")
    assert "not in the dataset" in refused(capsys, *recommend, "--user", "nobody")
    assert "no tuned.json" in refused(capsys, "ppr", "recommend", warm, "--user", "x")
    assert "no ppr.json" in refused(capsys, "ppr", "tune", light, "--out", tmp_path / "x")
    wrong = tuning(root, "light", "--gin.ProfileConfig.attributes=('agee',)")
    assert "did you mean age" in refused(capsys, *wrong)
    assert "step 3" in refused(capsys, *tuning(root, "light", "--gin.STEPS=2"))
    others = tuning(root, "full", "--gin.ColdStartConfig.first=3", "--gin.ColdStartConfig.share=.4")
    assert "other users" in refused(capsys, *others)
    assert "twice" in refused(capsys, "ppr", "evaluate", warm, light, light)
    assert not (root / "full").exists()


def study(world, out, *options, seeds=2):
    words = ["ppr", "study", str(world.path), "--out", str(out), "--seeds", str(seeds)]
    words += [*SIZES, *COLD]
    words += [*PROFILE, "--gin.PRETRAIN_STEPS=2", "--gin.STEPS=2"]
    return [*words, "--gin.TuneConfig.batch_size=16", *options]


@pytest.mark.check
def test_a_study_is_resumed_and_grown(world, tmp_path, capsys, monkeypatch):
    """Stopped after its first tuning, then finished, then asked for the ablation too."""
    out = tmp_path / "study"
    tune, calls = p5jax.ppr.cold_study.tune, []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return tune(*arguments)

    monkeypatch.setattr(p5jax.ppr.cold_study, "tune", stopping)
    previous = signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    try:
        assert main(study(world, out)) == 130
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert (out / "seed-0" / "finetune").is_dir()
    assert not (out / "seed-0" / "per_user.parquet").exists()
    finished = (out / "seed-0" / "finetune" / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(p5jax.ppr.cold_study, "tune", tune)
    capsys.readouterr()
    assert main(study(world, out)) == 0
    assert (out / "seed-0" / "finetune" / "metrics.jsonl").read_bytes() == finished
    text = capsys.readouterr().out
    assert "zero-shot, among frozen negatives: " in text
    assert "over seeds" in text
    table = read_per_user(out / "seed-1" / "per_user.parquet")
    assert set(table["method"].to_pylist()) == {
        *("finetune", "light", "full", "pretrain", "popularity", "early popularity")
    }
    monkeypatch.setattr(p5jax.ppr.cold_study, "tune", None)  # nothing is tuned any more
    assert main(study(world, out)) == 0
    assert capsys.readouterr().out.split("seconds")[0] == text.split("seconds")[0]
    monkeypatch.setattr(p5jax.ppr.cold_study, "tune", tune)
    assert main(study(world, out, "--ablate", "contrastive", "--noise", seeds=1)) == 0
    grown = capsys.readouterr().out
    for method in ("light without prompt part", "light without contrastive", "light, 50% noise"):
        assert f"\n  {method} " in grown
    assert main(["ppr", "report", str(out)]) == 0  # of two seeds, one of them with more methods
    page = (out / "report.html").read_text()
    for part in ("<h2>Tuning</h2><svg", "light without prompt part<td>", "50% noise<td>"):
        assert part in page
    capsys.readouterr()
    assert main(study(world, out)) == 0  # the smaller study again
    assert capsys.readouterr().out.split("seconds")[0] == text.split("seconds")[0]
    assert "STEPS" not in refused(capsys, *study(world, out, "--gin.STEPS=3"))


@pytest.mark.check
def test_soft_prompts_beside_manual_ones(world, tmp_path, capsys):
    run = random_run(world.path, tmp_path / "run")
    with Checkpoints(run.path / "checkpoints") as checkpoints:
        checkpoints.save(1, {"target": run.params, "state": {"step": np.int32(1)}}, {})
    soft = ["ppr", "soft", "--gin_file=ppr/soft.gin", f"--gin.RUN={run.path}", "--gin.STEPS=2"]
    soft += ["--gin.BATCH_SIZE=8", "--gin.PromptConfig.length=2", "--gin.SoftConfig.rank_users=8"]
    folders = [str(tmp_path / f"soft-{seed}") for seed in range(2)]
    for seed, folder in enumerate(folders):
        assert main([*soft, *PROFILE, f"--gin.OUT={folder}", f"--gin.SEED={seed}"]) == 0
    capsys.readouterr()
    words = ["ppr", "compare", str(run.path), "--limit", "12"]
    assert main([*words, "--soft", *folders]) == 0
    text = capsys.readouterr().out
    assert "soft prefix, arguments (soft-0, soft-1)" in text
    assert "seen manual (2-3)" in text
    assert "over seeds" in text
    assert "popularity" in text
    assert "folder twice" in refused(capsys, *words, "--soft", folders[0], folders[0])
    assert "no soft.json" in refused(capsys, *words, "--soft", run.path)
