"""t5x's own programs on p5jax's gin files; skipped where t5x is not installed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from t5x_run import LENGTHS, SIZES, flags, p5jax_train

from p5jax.cli.main import main
from p5jax.core.config import gin_folder
from p5jax.data.dataset import Dataset

pytestmark = pytest.mark.extras
pytest.importorskip("t5x", reason="needs t5x, which is installed by hand")


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    return p5jax_train(world, tmp_path_factory.mktemp("native") / "run")


ROOT = Path(__file__).resolve().parents[2]


def started(words, devices=1, folder=None):
    """`python -m …` to its end, in a folder."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    return subprocess.run(
        [sys.executable, "-m", *words],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def t5x_program(name, file, values, devices=1):
    words = [f"t5x.{name}", f"--gin_file={gin_folder()}/t5x/{file}.gin", *flags(values)]
    done = started(words, devices)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]


def printed(beginning):
    """The command lines of README and the tutorial that begin so, as lists of words."""
    found = []
    for page in (ROOT / "README.md", ROOT / "docs/tutorials/seqio_t5x.md"):
        for block in re.findall(r"^```[^\n]*\n(.*?)^```$", page.read_text(), re.M | re.S):
            lines = block.replace("\\\n", " ").splitlines()
            found += [shlex.split(line) for line in lines if line.startswith(beginning)]
    return found


@pytest.fixture(scope="module")
def place(world, tmp_path_factory):
    """Where the commands that are printed are typed: a dataset, README's runs, gin/ and, since
    people have one, a folder models/."""
    here = tmp_path_factory.mktemp("place")
    (here / "data").mkdir()
    (here / "models").mkdir()
    (here / "gin").symlink_to(gin_folder())
    (here / "data" / "instruments").symlink_to(world.path)
    (command,) = [words for words in printed("p5jax train") if "--gin.RUN_DIR=runs/next" in words]
    before = Path.cwd()
    os.chdir(here)
    try:
        assert main([*command[1:], "--gin.STEPS=3", "--gin.ValidationConfig.rank_users=4"]) == 0
    finally:
        os.chdir(before)
    (here / "runs" / "instruments").mkdir()
    (here / "runs" / "instruments" / "vocabulary").symlink_to(here / "runs" / "next" / "vocabulary")
    return here


# The printed commands train for thousands of steps; these for three. The last of two flags counts.
SHORT = ["--gin.BATCH_SIZE=4", "--gin.BEAM=2"]
TRAINED = [*SHORT, "--gin.TRAIN_STEPS=3", "--gin.train.eval_steps=1"]
TUNED = [*SHORT, "--gin.EVAL_STEPS=1", "--gin.EVALUATOR_NUM_EXAMPLES=4"]


@pytest.mark.check
def test_the_commands_that_are_printed(place):
    """Relative paths and all; each command goes on from what the one before it wrote."""
    expected = {
        "pretrain": ("train", TRAINED),
        "eval": ("eval", [*SHORT, "--gin.EVALUATOR_NUM_EXAMPLES=4"]),
        "infer": ("infer", SHORT),
        "finetune": ("train", [*TUNED, "--gin.TRAIN_STEPS_RELATIVE=2"]),
    }
    commands = printed("python -m t5x.")
    assert [(c[2], Path(c[3]).stem) for c in commands] == [
        (f"t5x.{program}", file) for file, (program, _) in expected.items()
    ]
    for command, (_, short) in zip(commands, expected.values(), strict=True):
        words = [re.sub(r"checkpoint_\d+", "checkpoint_3", word) for word in command[2:]]
        done = started([*words, *short], folder=place)
        assert done.returncode == 0, f"{words}: {done.stderr[-3000:]}"
    runs = place / "runs"
    assert (runs / "t5x" / "checkpoint_3" / "state").is_dir()
    assert (runs / "t5x-rating" / "checkpoint_5" / "state").is_dir()
    metrics = runs / "t5x-metrics" / "inference_eval" / "p5_synthetic_rating-metrics.jsonl"
    assert json.loads(metrics.read_text().splitlines()[-1])["rating/n"] > 0
    (file,) = (runs / "t5x-answers").glob("*.jsonl-00000-of-00001")
    dataset = Dataset.load(place / "data" / "instruments")
    rows = [json.loads(line)["inputs"] for line in file.read_text().splitlines()]
    assert [(row["prompt"], row["user_key"], row["item_key"]) for row in rows] == [
        ("2-3", key, dataset.item_keys[dataset.target(user, "test")])
        for user, key in enumerate(dataset.user_keys)
    ]
    assert all(row["targets_pretokenized"] and row["inputs_pretokenized"] for row in rows)


@pytest.mark.check
def test_fine_tuning_counts_the_checkpoints_steps(place):
    """TRAIN_STEPS, instead of TRAIN_STEPS_RELATIVE; the file by its short name."""
    (command,) = [c for c in printed("python -m t5x.") if "finetune" in c[3]]
    words = [re.sub(r"checkpoint_\d+", "checkpoint_3", word) for word in command[2:]]
    words = [word for word in words if "STEPS" not in word]
    words[1:2] = ["--gin_search_paths=gin", "--gin_file=t5x/finetune.gin"]
    more = [*TUNED, "--gin.TRAIN_STEPS=4", '--gin.MODEL_DIR="runs/four"', "--gin.EVAL_PERIOD=1"]
    done = started([*words, *more], folder=place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in (place / "runs" / "four").glob("checkpoint_*")} == {
        "checkpoint_3",
        "checkpoint_4",
    }


@pytest.mark.check
@pytest.mark.parametrize(
    ("flag", "line"),
    [
        (
            "--gin.BATCHSIZE=8",
            "macro BATCHSIZE is set but nothing uses it; did you mean BATCH_SIZE",
        ),
        ('--gin.TASK="ratng"', "found 'p5_synthetic_ratng', .*did you mean p5_synthetic_rating"),
        ("--gin.TASK_FEATURE_LENGTHS={'inputs': 9, 'targets': 9}", "prompt .* needs .* tokens, 9"),
        ("--gin.VOCABULARY=%gin.REQUIRED", "VOCABULARY must be set: add --gin.VOCABULARY=…"),
        ("--gin.T5Config.droput_rate=0.2", "T5Config.* 'droput_rate'.*line"),
        (
            "--gin.MODEL_DIR=runs/x",
            "MODEL_DIR = runs/x: expected a Python value .strings in quotes",
        ),
    ],
)
def test_a_mistake_is_one_line(place, flag, line):
    (command,) = [c for c in printed("python -m t5x.") if "pretrain" in c[3]]
    done = started([*command[2:], *TRAINED, flag], folder=place)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert re.match(f"p5jax: error: .*({line})", done.stderr.splitlines()[-1])


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
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(tmp_path), str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = """
import __main__
from gin import config as gin
import p5jax.core.config
from t5x import eval, gin_utils, infer, train
__main__.write_inferences_to_file = infer.write_inferences_to_file
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
