"""Pre-training: objectives, what it may read, resuming, run folders, meshes, the commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from kept_training import last_metrics, last_params, last_progress
from ppr_world import ring, small_config, write_sequences
from toy_training import assert_same_bits

from p5jax.cli.main import main
from p5jax.core.errors import UserError
from p5jax.ppr.backbone.model import Backbone, BackboneConfig, backbone_params
from p5jax.ppr.backbone.pretraining import LossConfig, PretrainConfig, next_item_objective, pretrain
from p5jax.ppr.backbone.run import PprRun
from p5jax.ppr.backbone.sequences import SequenceConfig
from p5jax.ppr.backbone.views import ViewConfig
from p5jax.training.checkpoints import available_steps

ROOT = Path(__file__).resolve().parents[2]
ITEMS = 24


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_sequences(tmp_path_factory.mktemp("ring") / "data", ring(), ITEMS)


# ---- objectives ----

MODEL = Backbone(BackboneConfig(9, 8, mlp_dim=8, max_history=4, dropout_rate=0.0))


def batch():
    rng = np.random.default_rng(0)
    items = np.array([[0, 0, 3, 4], [1, 2, 3, 9], [0, 0, 0, 0]], np.int32)
    targets = np.array([[0, 0, 4, 5], [2, 3, 9, 8], [0, 0, 0, 0]], np.int32)
    return {
        "items": items,
        "targets": targets,
        "negatives": rng.integers(1, 10, (3, 4, 2)).astype(np.int32),
    }


@pytest.mark.parametrize("loss", ["cross_entropy", "sampled", "bpr"])
def test_objectives_sum_over_real_positions(loss):
    params = jax.tree.map(lambda x: x * 30, backbone_params(MODEL, jax.random.key(0)))
    states = np.asarray(MODEL.apply({"params": params}, batch()["items"]), np.float64)
    table = np.asarray(params["item_embedding"]["embedding"], np.float64)[:9]
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    scores = states @ table.T
    expected, positions = 0.0, 0
    for row, column in zip(*np.nonzero(batch()["targets"]), strict=True):
        own = scores[row, column, batch()["targets"][row, column] - 1]
        others = scores[row, column, batch()["negatives"][row, column] - 1]
        if loss == "cross_entropy":
            expected += np.log(np.exp(scores[row, column]).sum()) - own
        elif loss == "sampled":
            expected += np.log(np.exp(own) + 8 / 2 * np.exp(others).sum()) - own
        else:
            expected += np.log1p(np.exp(others - own)).mean()
        positions += 1
    objective = next_item_objective(MODEL, LossConfig(loss), ViewConfig())
    total, sums = objective(params, batch(), None)
    assert float(total) == pytest.approx(expected, rel=1e-4)
    assert float(sums["weight"]) == positions == 6
    assert float(sums["examples"]) == 2
    with_key, _ = objective(params, batch(), jax.random.key(0))
    assert float(with_key) == pytest.approx(float(total), rel=1e-6)  # no dropout here


@pytest.mark.check
def test_the_contrastive_part_is_added_in_training_only():
    params = jax.tree.map(lambda x: x * 30, backbone_params(MODEL, jax.random.key(0)))
    plain, key = next_item_objective(MODEL, LossConfig(), ViewConfig()), jax.random.key(1)
    # Views that change nothing are told apart from the other user's by their angle alone.
    same = ViewConfig(crop=1.0, mask=0.0, reorder=0.0)
    both = next_item_objective(MODEL, LossConfig("cross_entropy", 0.5, 0.7), same)
    assert float(both(params, batch(), None)[0]) == float(plain(params, batch(), None)[0])
    users = np.asarray(MODEL.apply({"params": params}, batch()["items"], method="user_state"))
    a, b = (user / np.linalg.norm(user) for user in users[:2])
    part = np.log(np.exp(1 / 0.7) + 2 * np.exp(a @ b / 0.7)) - 1 / 0.7
    difference = both(params, batch(), key)[0] - plain(params, batch(), key)[0]
    assert float(difference) == pytest.approx(0.5 * part * 6, rel=1e-3)


# ---- training ----


@pytest.mark.parametrize(
    ("loss", "negatives", "weight"),
    [
        ("cross_entropy", 0, 0.0),
        ("sampled", 4, 0.0),
        ("bpr", 4, 0.0),
        pytest.param("cross_entropy", 0, 0.1, marks=pytest.mark.check),
    ],
)
def test_every_loss_learns_the_ring(dataset, tmp_path, loss, negatives, weight):
    config = small_config(loss, negatives, weight, steps=120)
    run = pretrain(dataset, config, tmp_path / "run")
    assert last_metrics(run.path)["validation/NDCG@10"] > 0.8
    results = run.evaluate("test")
    values = {r.prompt_id: r.metrics["NDCG@10"][0] for r in results}
    assert values["backbone"] > 0.8 > 0.5 > values["popularity"]
    again = PprRun.load(tmp_path / "run")
    assert_same_bits(jax.device_get(again.params), jax.device_get(run.params))
    assert (tmp_path / "run" / "evaluation" / "test" / "summary.json").is_file()


def test_held_out_items_and_other_users_are_never_read(dataset, tmp_path):
    users = np.arange(0, 64, 2)
    changed = ring()
    for user, sequence in enumerate(changed):
        changed[user] = [5] * len(sequence) if user % 2 else [*sequence[:-2], 7, 7]
    other = write_sequences(tmp_path / "changed", changed, ITEMS)
    config = replace(small_config(steps=5), validation_users=0)
    config = replace(config, training=replace(config.training, best_metric="validation/loss"))
    a, b, c = (
        last_params(pretrain(data, config, tmp_path / name, users=chosen).path)
        for name, data, chosen in (
            *(("a", dataset, users), ("b", other, users)),
            ("c", other, None),
        )
    )
    assert_same_bits(jax.device_get(a), jax.device_get(b))
    with pytest.raises(AssertionError):
        assert_same_bits(jax.device_get(a), jax.device_get(c))
    run = PprRun.load(tmp_path / "a")
    assert run.trained_on(users[::-1])
    assert not run.trained_on(np.arange(64))


@pytest.mark.check
def test_resumed_is_uninterrupted(dataset, tmp_path):
    config = small_config("bpr", 2, 0.1, steps=14, checkpoint_every=7, validate_every=5)
    run = pretrain(dataset, config, tmp_path / "run")
    whole, best = last_params(run.path), last_progress(run.path)["best"]
    folder = tmp_path / "run" / "checkpoints"
    first, *later = available_steps(folder)
    assert first < 14
    assert later[-1] == 14
    for step in later:
        shutil.rmtree(folder / f"checkpoint_{step}")
    run = pretrain(dataset, config, tmp_path / "run")
    assert_same_bits(jax.device_get(whole), jax.device_get(last_params(run.path)))
    assert last_progress(run.path)["best"] == best
    assert run.path == tmp_path / "run"


@pytest.mark.check
def test_a_longer_training_goes_on_where_the_shorter_ended(dataset, tmp_path):
    whole = pretrain(dataset, small_config(steps=5), tmp_path / "whole")
    pretrain(dataset, small_config(steps=3), tmp_path / "run")
    pretrain(dataset, small_config(steps=5), tmp_path / "run")
    run = PprRun.load(tmp_path / "run")
    assert_same_bits(jax.device_get(last_params(run.path)), jax.device_get(last_params(whole.path)))
    assert run.manifest["settings"]["training"]["steps"] == 5
    with pytest.raises(UserError, match="at step 5, beyond the 3 steps"):
        pretrain(dataset, small_config(steps=3), tmp_path / "run")
    assert PprRun.load(tmp_path / "run").manifest == run.manifest


def test_a_folder_of_another_run_is_refused(dataset, tmp_path):
    config = small_config(steps=2)
    pretrain(dataset, config, tmp_path / "run")
    with pytest.raises(UserError, match=r"ppr.json: found users.count = 64, expected 10"):
        pretrain(dataset, config, tmp_path / "run", users=np.arange(10))
    wider = replace(config, backbone=replace(config.backbone, emb_dim=8))
    with pytest.raises(UserError, match="backbone.emb_dim = 16, expected 8"):
        pretrain(dataset, wider, tmp_path / "run")
    slower = replace(config, optimizer=replace(config.optimizer, learning_rate=0.1))
    with pytest.raises(UserError, match=r"settings.optimizer.learning_rate = 0.03"):
        pretrain(dataset, slower, tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is not a pre-trained backbone"):
        pretrain(dataset, config, tmp_path / "other")
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["letter.txt"]
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    write_sequences(tmp_path / "moved", [[1, 2, 3, 4]] * 3, ITEMS)
    manifest = json.loads((tmp_path / "run" / "ppr.json").read_text())
    manifest["dataset"] |= {"path": str(tmp_path / "moved"), "relative": "../moved"}
    (tmp_path / "run" / "ppr.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="the model was trained on token ids, fingerprint"):
        PprRun.load(tmp_path / "run")


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="negatives: found 0, expected 1 or more for the loss bpr"):
        PretrainConfig(loss=LossConfig("bpr"))
    with pytest.raises(UserError, match="negatives: found 3, expected 0 for the loss cross_ent"):
        PretrainConfig(sequences=SequenceConfig(negatives=3))
    with pytest.raises(UserError, match="LossConfig.loss: found 'bprr'.*bpr"):
        LossConfig("bprr")
    with pytest.raises(UserError, match="temperature: found 0"):
        LossConfig(temperature=0)


@pytest.mark.check
def test_one_device_equals_eight(dataset, tmp_path):
    """Data 8, and data 2 x model 4, give the parameters of one device."""

    def run(name, devices, data, model):
        env = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        }
        command = [sys.executable, str(ROOT / "tests" / "ppr_world.py"), str(dataset.path)]
        command += [str(tmp_path / name), str(data), str(model)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return jax.device_get(PprRun.load(tmp_path / name).params), float(done.stdout.split()[-1])

    (one, value), *others = (run("1", 1, 1, 1), run("8", 8, 8, 1), run("2x4", 8, 2, 4))
    for params, other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), one, params)
        assert other == pytest.approx(value, abs=0.02)


# ---- commands ----

SMALL = (
    *("STEPS=4", "BATCH_SIZE=16", "BackboneConfig.emb_dim=16", "BackboneConfig.max_history=8"),
    *("TrainConfig.validate_every=0", "PprConfig.validation_users=20", "SequenceConfig.widths=()"),
)


@pytest.mark.parametrize(
    "file", ["ppr/sasrec.gin", pytest.param("ppr/cl4srec.gin", marks=pytest.mark.check)]
)
def test_the_commands(world, tmp_path, capsys, file):
    run = tmp_path / "run"
    words = [f"--gin.{s}" for s in (*SMALL, f"DATASET={world.path}", f"RUN_DIR={run}")]
    assert main(["ppr", "pretrain", f"--gin_file={file}", *words]) == 0
    assert (run / "config.gin").is_file()
    capsys.readouterr()
    assert main(["ppr", "evaluate", str(run)]) == 0
    table = capsys.readouterr().out
    for row in ("backbone", "popularity", "markov", "NDCG@10"):
        assert row in table
    assert main(["ppr", "evaluate", str(run), "--split", "validation", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert rows[0]["prompt"] == "backbone"
    assert rows[0]["n"] == world.num_users
    assert rows[0]["seen"] is None
    assert main(["ppr", "pretrain", f"--gin_file={file}", *words, "--gin.LEARNING_RATE=0.1"]) == 2
    assert "settings.optimizer.learning_rate = 0.001" in capsys.readouterr().err


def test_mistakes_are_one_line(world, tmp_path, capsys):
    def refused(*words):
        assert main(["ppr", *words]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        return line

    assert "not a pre-trained backbone (no ppr.json); see p5jax ppr pretrain" in refused(
        "evaluate", str(tmp_path)
    )
    file = "--gin_file=ppr/sasrec.gin"
    assert "DATASET must be set" in refused("pretrain", file, "--gin.RUN_DIR=x")
    words = (file, f"--gin.DATASET={world.path}", f"--gin.RUN_DIR={tmp_path / 'run'}")
    assert "num_heads = 3" in refused("pretrain", *words, "--gin.BackboneConfig.num_heads=3")
    assert "unknown name 'BackbonConfig'" in refused(
        "pretrain", *words, "--gin.BackbonConfig.num_heads=3"
    )
    assert not (tmp_path / "run").exists()
