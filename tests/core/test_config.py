"""The gin edge: values reach the configs, and whatever nothing would use is refused."""

from __future__ import annotations

import dataclasses
import sys
from types import ModuleType

import pytest

from p5jax.core import config
from p5jax.core.errors import UserError
from p5jax.core.gin_text import allow_imports
from p5jax.evaluation.recipe import RecipeConfig
from p5jax.jobs.train import CONFIGS
from p5jax.models.t5 import T5Config
from p5jax.pipeline.config import PipelineConfig
from p5jax.runs.run import RunConfig
from p5jax.training.trainer import TrainConfig


@pytest.fixture(autouse=True)
def _registered():
    config.register_configs(*CONFIGS)


def configure(tmp_path, text, *overrides):
    file = tmp_path / "run.gin"
    file.write_text(text)
    config.configure([str(file)], overrides)


def test_file_then_override(tmp_path):
    configure(tmp_path, "N = 3\nTrainConfig.steps = %N\nTrainConfig.seed = 5\n", "N=7")
    built = config.build(TrainConfig)
    assert (built.steps, built.seed, built.keep) == (7, 5, TrainConfig().keep)
    assert type(built) is TrainConfig


def test_included_model_and_given_fields(tmp_path):
    configure(tmp_path, "include 'models/tiny.gin'\n")
    model = config.build(T5Config, vocab_size=11)
    assert (model.emb_dim, model.num_encoder_layers, model.vocab_size) == (128, 2, 11)


def test_folders_named_like_includes_change_nothing(tmp_path, monkeypatch):
    for name in ("models", "runs"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    configure(tmp_path, "include 'runs/quickstart.gin'\nSTEPS = 3\n", "DATASET=d", "RUN_DIR=r")
    assert config.build(TrainConfig).steps == 3
    assert config.build(T5Config, vocab_size=11).emb_dim == 128


def test_statements_around_an_include_keep_their_order_and_their_lines(tmp_path):
    text = "T5Config.emb_dim = 5\ninclude 'models/tiny.gin'\nT5Config.num_heads = 7\n"
    configure(tmp_path, text)
    built = config.build(T5Config, vocab_size=11)
    assert (built.emb_dim, built.num_heads) == (128, 7)
    with pytest.raises(UserError, match=r"run.gin:3: T5Config has no field 'heads'"):
        configure(tmp_path, text.replace("num_heads", "heads"))


def test_unquoted_path_is_a_string(tmp_path):
    configure(tmp_path, "RunConfig.dataset = %DATASET\nRunConfig.run_dir = 'r'\n", "DATASET=/a/b-c")
    assert config.build(CONFIGS[0]).dataset == "/a/b-c"


def test_a_prompt_id_is_a_string_and_gin_s_own_values_stay(tmp_path):
    text = "N = 'x'\nTrainConfig.best_metric = %N\n"
    configure(tmp_path, text, "N=2-13")
    assert config.build(TrainConfig).best_metric == "2-13"
    configure(tmp_path, "S = 'y'\n" + text, "N=%S", "PipelineConfig.source_lengths=(8, 16)")
    assert config.build(TrainConfig).best_metric == "y"
    assert config.build(PipelineConfig).source_lengths == (8, 16)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("N = 3\nTrainConfig.steps = %N\n", ["M=4"], "macro M is set but nothing uses it"),
        ("STEPS = 3\nTrainConfig.steps = %STEPS\n", ["STEP=4"], "did you mean STEPS"),
        ("TrainConfig.stepps = 3\n", [], r"run.gin:1: TrainConfig has no field 'stepps'.*steps"),
        ("\nTrainCnfig.steps = 3\n", [], r"run.gin:2: unknown name 'TrainCnfig'.*TrainConfig"),
        ("include 'models/tny.gin'\n", [], r"run.gin:1: models/tny.gin: .*models/tiny.gin"),
        ("TrainConfig.steps = = 3\n", [], "run.gin:1: Unable to parse value"),
        ("\nSTEPS = '''x\n", [], "run.gin:2: found EOF in multi-line string, expected its closing"),
        # Python's words, which differ between its versions.
        ("STEPS = (1,\n\n", [], "run.gin:[23]: found .*EOF in multi-line statement, expected its"),
        ("STEPS = [1, 2\nTrainConfig.steps = 3\n", [], r"run.gin:2: "),
        ("STEPS = 'x\n", [], "run.gin:1: (Unable to parse value|found unterminated string)"),
        ("STEPS = " + "[" * 5000, [], "run.gin:1: found too many (brackets|nested parentheses)"),
        ("STEPS = " + "9" * 5000, [], "run.gin:1: Exceeds the limit"),
        ("\na/TrainConfig.steps = 3\n", [], "run.gin:2: found the scope 'a', expected a name"),
        ("a/STEPS = 3\nTrainConfig.steps = %STEPS\n", [], "run.gin:1: found the scope 'a'"),
        ("TrainConfig.steps = %a/STEPS\n", [], "run.gin:1: found a/STEPS, expected a name"),
        ("a/TrainConfig:\n  steps = 4\n", [], "run.gin:1: found the scope 'a'"),
        ("macro.value = 3\n", [], "run.gin:1: found macro, expected NAME = VALUE"),
        ("", ["a/TrainConfig.steps=3"], "--gin: found the scope 'a'"),
        ("", ["A=3\nB=4"], "macro A is set but nothing uses it"),
        ("", ["A\nimport this\nB=3"], "--gin: "),
        ("include 'run.gin'\n", [], "run.gin:1: .*run.gin"),
        (
            "import this\n",
            [],
            "run.gin:1: found an import of this, .*--gin-imports this allows it,",
        ),
        ("from this import path\n", [], "run.gin:1: found an import of this.path, .*"),
        ("from __gin__ import dynamic_registration\n", [], "run.gin:1: found an import of __gin__"),
        ("import p5jax.nosuch\n", [], "No module named 'p5jax.nosuch'"),
        ("", ["TrainConfig.steps"], "expected --gin.NAME=VALUE"),
    ],
)
def test_refused_when_bound(tmp_path, text, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        configure(tmp_path, text, *overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "cls", "message"),
    [
        ("TrainConfig.steps = 'many'\n", TrainConfig, "found 'many', expected a whole number"),
        ("TrainConfig.steps = %STEPS\n", TrainConfig, "STEPS must be set: add --gin.STEPS="),
        ("PipelineConfig.batching = 'bags'\n", PipelineConfig, "'bags'.*buckets"),
        ("TrainConfig.steps = @TrainConfig()\n", TrainConfig, "values that refer to themselves"),
        ("A = %B\nB = %A\nTrainConfig.seed = %A\n", TrainConfig, "values that refer to themselves"),
        ("TrainConfig.best_metric = 1.50\n", TrainConfig, "found 1.5, expected text"),
    ],
)
def test_refused_when_built(tmp_path, text, cls, message):
    configure(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        config.build(cls)
    assert "\n" not in str(caught.value)


def test_a_module_is_imported_once_it_is_allowed(tmp_path, monkeypatch):
    """An import runs the module: it is refused before it does."""
    (tmp_path / "of_mine.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "include 'models/tiny.gin'\nimport of_mine\nTrainConfig.steps = 3\n"
    with pytest.raises(UserError, match=r"run.gin:2: found an import of of_mine"):
        configure(tmp_path, text)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match=r"--gin-imports of_min: No module named 'of_min'"):
        allow_imports("of_min")
    allow_imports("of_mine")
    assert (tmp_path / "ran").exists()
    configure(tmp_path, text)
    assert config.build(TrainConfig).steps == 3


def test_a_module_that_python_has_imported_is_allowed(tmp_path, monkeypatch):
    text = "import imported_before\nTrainConfig.steps = 3\n"
    with pytest.raises(UserError, match=r"allows it, and in Python importing it before$"):
        configure(tmp_path, text)
    monkeypatch.setitem(sys.modules, "imported_before", ModuleType("imported_before"))
    configure(tmp_path, text)
    assert config.build(TrainConfig).steps == 3


def test_files_that_include_each_other_are_refused(tmp_path):
    (tmp_path / "b.gin").write_text(f"N = 3\ninclude '{tmp_path}/run.gin'\n")
    with pytest.raises(UserError, match=r"b.gin:2: found .*run.gin, which includes this file"):
        configure(tmp_path, f"include '{tmp_path}/b.gin'\n")


def test_unknown_file_names_the_nearest():
    with pytest.raises(UserError, match=r"runs/quikstart.gin.*runs/quickstart.gin"):
        config.find_gin_file("runs/quikstart.gin")


@pytest.mark.parametrize("file", sorted(p.name for p in (config.gin_folder() / "runs").iterdir()))
def test_every_run_file_builds(file):
    config.configure([f"runs/{file}"], ["DATASET=d", "RUN_DIR=r"])
    given = {T5Config: {"vocab_size": 1}}
    for cls in set(CONFIGS) - {RecipeConfig}:  # which files of results alone bind
        built = config.build(cls, **given.get(cls, {}))
        assert dataclasses.is_dataclass(built)
        if cls is RunConfig:
            assert (built.dataset, built.run_dir) == ("d", "r")


def test_bound_config_can_be_run_again(tmp_path):
    configure(tmp_path, "N = 3\nTrainConfig.steps = %N\n", "N=9")
    text = config.bound_config()
    configure(tmp_path, text)
    assert config.build(TrainConfig).steps == 9


def test_model_files_are_short():
    files = list((config.gin_folder() / "models").glob("*.gin"))
    assert files
    for file in files:
        assert len(file.read_text().splitlines()) <= 10, file
