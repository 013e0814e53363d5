"""The public API, used as its users would: from a script or a notebook."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import p5jax

NAMES = {
    *("prepare", "audit", "train", "evaluate", "compare", "load"),
    *("Dataset", "Run", "Recommender", "UserError", "Interrupted", "__version__"),
}
SIZES = {
    "T5Config.emb_dim": 16,
    "T5Config.mlp_dim": 16,
    "T5Config.num_heads": 2,
    "T5Config.num_encoder_layers": 1,
    "T5Config.num_decoder_layers": 1,
    "RunConfig.vocabulary_size": 400,
    "RunConfig.families": ("sequential", "rating", "explanation"),
    "PipelineConfig.source_lengths": (192,),
    "FamilyConfig.max_source": 192,
    "PipelineConfig.target_lengths": (4, 16),
    "ValidationConfig.examples": 4,
}


def trained(dataset, folder: Path, **macros) -> p5jax.Run:
    files = ("runs/p5.gin", "models/tiny.gin")
    given = {"DATASET": dataset.path, "RUN_DIR": folder, "STEPS": 2, "BATCH_SIZE": 4, **macros}
    return p5jax.train(*files, bindings=SIZES, **given)


@pytest.fixture(scope="module")
def run(world, tmp_path_factory) -> p5jax.Run:
    return trained(world, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def evaluated(run):
    return p5jax.evaluate(run, prompts=("2-3",), limit=6)


def test_names_are_those_of_the_documentation():
    assert set(p5jax.__all__) == NAMES
    assert set(dir(p5jax)) == NAMES
    for name in p5jax.__all__:
        assert getattr(p5jax, name), name
        assert name == "__version__" or inspect.getdoc(getattr(p5jax, name)), name
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        p5jax.trian  # noqa: B018


def test_importing_it_imports_neither_jax_nor_numpy():
    program = "import p5jax, sys; print([n for n in ('jax', 'numpy', 'gin') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("package", ["p5jax", "p5jax.triggers", "p5jax.ppr", "p5jax.models"])
def test_names_for_type_checkers_are_those_that_are_imported(package):
    module = importlib.import_module(package)
    tree = ast.parse(Path(module.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    typed: dict[str, Any] = {}
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            source = importlib.import_module(node.module)
            typed |= {alias.name: getattr(source, alias.name) for alias in node.names}
        else:  # load = Recommender.load
            typed[node.targets[0].id] = getattr(typed[node.value.value.id], node.value.attr)
    assert set(typed) == set(module.__all__) - {"__version__"}
    for name, value in typed.items():
        assert getattr(module, name) is value


def test_prepare_gives_a_dataset_and_audit_checks_it(tmp_path):
    dataset = p5jax.prepare("synthetic", tmp_path / "data", item_ids="token", seed=1)
    assert isinstance(dataset, p5jax.Dataset)
    assert dataset.id_scheme == "token"
    found = p5jax.audit(dataset)
    assert found["leaks"] == []
    assert found["n"] == dataset.num_users
    assert p5jax.audit(tmp_path / "data") == found


def test_train_gives_a_run_that_resumes_and_refuses_other_settings(world, run):
    assert isinstance(run, p5jax.Run)
    assert run.model.config.emb_dim == 16
    assert set(run.families) == {"sequential", "rating", "explanation"}
    assert trained(world, run.path).path == run.path
    with pytest.raises(p5jax.UserError, match="STEPZ"):
        trained(world, run.path, STEPZ=3)
    with pytest.raises(p5jax.UserError):
        trained(world, run.path, STEPS=3, SEED=5)


def test_text_is_read_as_on_the_command_line(world, run):
    trained(world, run.path, STEPS="2", BATCH_SIZE="%EIGHT", EIGHT="4")
    assert {"STEPS = 2", "BATCH_SIZE = %EIGHT"} <= set(
        (run.path / "config.gin").read_text().splitlines()
    )


def test_evaluate_takes_a_run_or_its_folder(run, evaluated):
    model = next(result for result in evaluated if not result.baseline)
    assert (model.family, model.prompt_id, model.n) == ("sequential", "2-3", 6)
    again = p5jax.evaluate(str(run.path), prompts=("2-3",), limit=6)
    found = [[result.metrics for result in results] for results in (again, evaluated)]
    np.testing.assert_equal(*found)  # where there is no interval, both have none
    with pytest.raises(p5jax.UserError, match="did you mean"):
        p5jax.evaluate(run, families=("sequentiel",))


def test_compare_needs_two_evaluated_runs(run):
    with pytest.raises(p5jax.UserError, match="p5jax evaluate"):
        p5jax.compare(run, run, split="validation")
    p5jax.evaluate(run, "validation", prompts=("2-3",))
    found = p5jax.compare(run, run.path, split="validation")
    assert {each.metric for each in found} >= {"HR@10", "NDCG@10"}
    assert all(each.difference == 0 for each in found)


def test_a_loaded_run_recommends_explains_and_generates(run, world):
    recommender = p5jax.load(run.path)
    assert isinstance(recommender, p5jax.Recommender)
    assert p5jax.load(run).run is run
    users = world.user_keys[:2]
    for user, found in zip(users, recommender.recommend(users, k=3), strict=True):
        items = [world.item_index(item.item) for item in found.items]
        assert len(set(items)) == 3
        assert not set(items) & set(world.sequence(world.user_index(user)).tolist())
        assert all(math.isfinite(item.log_probability) for item in found.items)
    assert isinstance(recommender.explain(users[0], world.item_keys[0]), str)
    assert isinstance(recommender.generate("Which star rating ?"), str)


def test_a_mistake_is_an_exception_of_one_line(tmp_path):
    for mistake in (
        lambda: p5jax.load(tmp_path),
        lambda: p5jax.audit(tmp_path),
        lambda: p5jax.train("runs/p5.gin", DATASET=tmp_path, RUN_DIR=tmp_path / "run"),
        lambda: p5jax.prepare("movielens", tmp_path / "data"),
    ):
        with pytest.raises(p5jax.UserError) as error:
            mistake()
        assert "\n" not in str(error.value)
