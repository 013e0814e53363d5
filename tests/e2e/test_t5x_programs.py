"""t5x's own programs on p5jax's gin files; skipped where t5x is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from t5x_run import LENGTHS, SIZES, flags, p5jax_train

from p5jax.core.config import gin_folder

pytestmark = pytest.mark.extras
pytest.importorskip("t5x", reason="needs t5x, which is installed by hand")


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    return p5jax_train(world, tmp_path_factory.mktemp("native") / "run")


def t5x_program(name, file, values, devices=1):
    command = [sys.executable, "-m", f"t5x.{name}", f"--gin_file={gin_folder()}/t5x/{file}.gin"]
    command += flags(values)
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]


def events(folder):
    """The scalars of a folder's event files: {tag: {step: value}}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    accumulator.Reload()
    return {
        tag: {e.step: make_ndarray(e.tensor_proto) for e in accumulator.Tensors(tag)}
        for tag in accumulator.Tags()["tensors"]
    }


@pytest.mark.check
def test_t5x_trains_on_one_and_on_two_by_two_devices_evaluates_and_infers(world, run, tmp_path):
    """50 steps of t5x.train; what it wrote goes on in t5x.eval, t5x.infer and `p5jax train`."""
    common = {
        "DATASET": repr(str(world.path)),
        "VOCABULARY": repr(str(run.path / "vocabulary")),
        "p5jax.tasks.register.families": ("rating", "sequential"),
        "TASK_FEATURE_LENGTHS": LENGTHS,
        "BATCH_SIZE": 8,
        **{f"T5Config.{name}": size for name, size in SIZES.items()},
    }
    training = {"TRAIN_STEPS": 50, "train.eval_period": 10, "train.eval_steps": 1}
    losses = {}
    for devices in (1, 4):
        folder = tmp_path / f"devices-{devices}"
        mesh = {
            "PjitPartitioner.num_partitions": None,
            "PjitPartitioner.model_parallel_submesh": (1, 2),
        }
        more = {"MODEL_DIR": repr(str(folder)), **(mesh if devices == 4 else {})}
        t5x_program("train", "pretrain", common | training | more, devices)
        found = events(folder / "train")["loss_per_nonpadding_target_token"]
        losses[devices] = np.array([found[step] for step in (10, 20, 30, 40, 50)])
    print("losses on 1 and on 2 x 2 devices", losses)
    np.testing.assert_allclose(losses[4], losses[1], rtol=1e-5)
    assert losses[1][-1] < losses[1][0] - 0.5

    one = tmp_path / "devices-1" / "checkpoint_50"
    answers = {
        "CHECKPOINT_PATH": repr(str(one)),
        "TASK": repr("sequential_2_3"),
        "BEAM": 4,
    }
    evaluation = {"EVAL_OUTPUT_DIR": repr(str(tmp_path / "eval")), "EVALUATOR_NUM_EXAMPLES": 16}
    t5x_program("eval", "eval", common | answers | evaluation)
    file = tmp_path / "eval" / "inference_eval" / "p5_synthetic_sequential_2_3-metrics.jsonl"
    assert json.loads(file.read_text().splitlines()[-1])["item/n"] == 16

    inference = {"INFER_OUTPUT_DIR": repr(str(tmp_path / "infer")), "MODE": "'predict_with_aux'"}
    t5x_program("infer", "infer", common | answers | inference)
    (file,) = (tmp_path / "infer").glob("*.jsonl-00000-of-00001")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(lines) == run.families["sequential"].size("test", "2-3")
    for line in lines:
        assert len(line["prediction"]) == 4
        assert line["aux"]["scores"] == sorted(line["aux"]["scores"], reverse=True)


@pytest.mark.check
def test_gin_files_of_an_installed_wheel_find_what_they_include(tmp_path):
    """Far from a checkout; a later --gin_file is found by its name below the installed ones."""
    root = Path(__file__).resolve().parents[2]
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(tmp_path), str(root)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = """
import __main__
from gin import config as gin
import p5jax.core.config
from t5x import eval, gin_utils, infer, train
__main__.train, __main__.evaluate, __main__.infer = train.train, eval.evaluate, infer.infer
print(p5jax.core.config.gin_folder())
for name in ("pretrain", "finetune", "eval", "infer"):
    gin.clear_config()
    files = [f"{p5jax.core.config.gin_folder()}/t5x/{name}.gin", "models/v1_1_base.gin"]
    gin_utils.parse_gin_flags(["."], files, ["BATCH_SIZE = 3"], finalize_config=False)
    print(name, gin.get_bindings("T5Config")["mlp_dim"], gin.query_parameter("%BATCH_SIZE"))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    found = done.stdout.splitlines()[-5:]
    assert found == [
        str(tmp_path / "site" / "p5jax" / "configs"),
        "pretrain 2048 3",
        "finetune 2048 3",
        "eval 2048 3",
        "infer 2048 3",
    ], done.stdout[-500:] + done.stderr[-2000:]
