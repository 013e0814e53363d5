"""What the gin files of gin/t5x/ make of what a user says; t5x's own programs are not started."""

from __future__ import annotations

from pathlib import Path

import pytest
from native_stream import CONFIG

import __main__
from gin import config as gin
from p5jax.core.config import gin_folder
from p5jax.core.errors import UserError

pytestmark = pytest.mark.extras
train = pytest.importorskip("t5x.train", reason="needs t5x, which is installed by hand")

from t5x import gin_utils  # noqa: E402

from p5jax.tasks import t5x  # noqa: E402

FOLDERS = ("DATASET = 'd'", "VOCABULARY = 'v'", "MODEL_DIR = 'm'")
START = "INITIAL_CHECKPOINT_PATH = 'c'"


@pytest.fixture(autouse=True)
def main_program(monkeypatch):
    """As `python -m t5x.train` is; gin forgets afterwards."""
    monkeypatch.setattr(__main__, "train", train.train, raising=False)
    yield
    gin.clear_config()


def parse(file, *bindings):
    gin.clear_config()
    gin_utils.parse_gin_flags([str(gin_folder())], [f"t5x/{file}.gin"], bindings)


def bound(name):
    """The value of a parameter, macros and references evaluated."""
    value = gin.query_parameter(name)
    while isinstance(value, gin.ConfigurableReference):
        value = value.scoped_configurable_fn()
    return value


def test_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert t5x.absolute("runs/t5x") == str(tmp_path / "runs" / "t5x")
    assert t5x.absolute("/a/b") == "/a/b"
    assert t5x.absolute("gs://bucket/model") == "gs://bucket/model"
    parse("pretrain", *FOLDERS)
    assert bound("train.model_dir") == str(tmp_path / "m")


@pytest.mark.parametrize(
    "inside", ["checkpoint_3/state/d/x", "checkpoint_3/checkpoint", "ckpt-3.index"]
)
def test_checkpoints_are_found_and_absolute(tmp_path, monkeypatch, inside):
    """Orbax's and t5x's own, the folder that holds them, and TensorFlow's, which has a prefix."""
    monkeypatch.chdir(tmp_path)
    file = Path("model", inside)
    file.parent.mkdir(parents=True)
    file.touch()
    name = "model/ckpt-3" if "ckpt" in inside else "model/checkpoint_3"
    assert t5x.checkpoint(name) == str(tmp_path / name)
    assert t5x.checkpoint([name, name]) == [str(tmp_path / name)] * 2
    assert t5x.checkpoint("gs://bucket/checkpoint_3") == "gs://bucket/checkpoint_3"
    if "ckpt" not in inside:
        assert t5x.checkpoint("model") == str(tmp_path / "model")
    for wrong in ("model/checkpoint_4", "absent", "."):
        with pytest.raises(UserError, match=rf"^{wrong}: found no checkpoint, expected a folder"):
            t5x.checkpoint(wrong)


def test_prompts_are_as_long_as_t5x_lets_inputs_be():
    parse("pretrain", *FOLDERS, "TASK_FEATURE_LENGTHS = {'inputs': 96, 'targets': 8}")
    assert bound("register.config").max_source == 96
    parse("pretrain", *FOLDERS, "FamilyConfig.max_history = 7")
    found = bound("register.config")
    assert (found.max_source, found.max_history) == (512, 7)
    parse("pretrain", *FOLDERS, "FamilyConfig.max_source = 100")
    assert bound("register.config").max_source == 100
    parse("pretrain", *FOLDERS, "FamilyConfig.max_source = 600")
    expected = r"FamilyConfig.max_source: found 600, expected at most the 512 of TASK_FEATURE_LEN"
    with pytest.raises(UserError, match=expected):
        bound("register.config")
    assert t5x.family_config(None).max_source == 600  # t5x then takes inputs as they come


@pytest.mark.parametrize(
    "lengths", [{"inputs": 9}, {"inputs": 9, "targets": 0}, {"inputs": 9, "targets": "9"}]
)
def test_wrong_lengths_are_one_line(lengths):
    with pytest.raises(UserError, match=r"TASK_FEATURE_LENGTHS: found .*, expected \{'inputs'"):
        t5x.family_config(lengths)


@pytest.mark.parametrize(
    ("said", "total", "relative"),
    [
        ([], None, 1000),
        (["TRAIN_STEPS = 700"], 700, None),
        (["TRAIN_STEPS_RELATIVE = 50"], None, 50),
    ],
)
def test_fine_tuning_takes_either_number_of_steps(said, total, relative):
    """t5x ignores total_steps when it has relative_steps."""
    parse("finetune", *FOLDERS, START, *said)
    assert (bound("train.total_steps"), bound("train.relative_steps")) == (total, relative)


def test_fine_tuning_refuses_two_numbers_of_steps():
    parse("finetune", *FOLDERS, START, "TRAIN_STEPS = 7", "TRAIN_STEPS_RELATIVE = 5")
    with pytest.raises(UserError, match=r"TRAIN_STEPS: found 7, expected none beside .* = 5"):
        bound("train.relative_steps")


@pytest.mark.parametrize("file", ["pretrain", "finetune"])
def test_names_of_t5xs_habit_have_an_effect(file):
    said = ("DROPOUT_RATE = 0.25", "LEARNING_RATE = 0.125", "EVAL_PERIOD = 17")
    parse(file, *FOLDERS, *([START] if file == "finetune" else []), *said)
    assert bound("T5Config.dropout_rate") == 0.25
    assert bound("create_learning_rate_scheduler.base_learning_rate") == 0.125
    assert bound("train.eval_period") == 17


@pytest.mark.parametrize("name", ["DATASET", "VOCABULARY", "MODEL_DIR"])
def test_what_must_be_set_is_asked_for(name):
    with pytest.raises(ValueError, match=rf"{name}/\S+ set to `%gin.REQUIRED`"):
        parse("pretrain", *(each for each in FOLDERS if not each.startswith(name)))


def test_a_name_that_nothing_uses_is_an_error():
    expected = r"macro BATCHSIZE is set but nothing uses it; did you mean BATCH_SIZE"
    with pytest.raises(UserError, match=expected):
        parse("pretrain", *FOLDERS, "BATCHSIZE = 8")
    # A flag for what a macro is for takes its place: the macro of the file is no mistake.
    parse("pretrain", *FOLDERS, "train.eval_period = 9", "T5Config.dropout_rate = 0.5")
    assert bound("train.eval_period") == 9
    gin.clear_config()
    gin.parse_config("BATCHSIZE = 8")  # no configuration of p5jax's
    gin.finalize()


def test_files_are_found_beside_folders_of_their_names(tmp_path, monkeypatch):
    """gin alone takes models/ for a package, and fails."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("models", "runs", "t5x"):
        (tmp_path / name).mkdir()
    gin_utils.parse_gin_flags(
        ["."], [f"{gin_folder()}/t5x/pretrain.gin", "models/tiny.gin"], FOLDERS
    )
    assert bound("T5Config.emb_dim") == 128


def test_a_users_own_file_comes_before_one_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.gin").write_text("T5Config.emb_dim = 24\n")
    gin_utils.parse_gin_flags(
        ["."], [f"{gin_folder()}/t5x/pretrain.gin", "models/tiny.gin"], FOLDERS
    )
    assert bound("T5Config.emb_dim") == 24


def test_registering_takes_the_sampling_that_gin_says(world, vocabulary_folder):
    """So a small length leaves prompts whole: the native renderer shortens their history."""
    from p5jax.tasks.registry import examples_of

    parse(
        "pretrain",
        f"DATASET = '{world.path}'",
        f"VOCABULARY = '{vocabulary_folder}'",
        "MODEL_DIR = 'm'",
        f"TASK_FEATURE_LENGTHS = {{'inputs': {CONFIG.max_source}, 'targets': 16}}",
        "FamilyConfig.num_candidates = 20",
        "p5jax.tasks.register.name = 'settings'",
    )
    import seqio

    name = bound("train/DatasetConfig.mixture_or_task_name")
    assert name == "p5_settings"
    for task in seqio.get_mixture_or_task(name).tasks:
        found = examples_of(task).family.source.config
        assert (found.max_source, found.num_candidates) == (CONFIG.max_source, 20)


def test_a_loss_that_t5x_does_not_have_is_refused(world, vocabulary_folder):
    folders = (
        f"DATASET = '{world.path}'",
        f"VOCABULARY = '{vocabulary_folder}'",
        "MODEL_DIR = 'm'",
    )
    own = ("T5Config.likelihood = 'children'", "p5jax.tasks.register.name = 'likelihood'")
    parse("pretrain", *folders, *own)
    name = bound("train/DatasetConfig.mixture_or_task_name")
    with pytest.raises(UserError, match="T5Config.likelihood: found 'children', expected 'vocab"):
        t5x.transformer(name)
