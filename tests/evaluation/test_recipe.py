"""Recipes: what their settings may say, the shipped ones, and figures beside their bands."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest

from p5jax.core import config
from p5jax.core.errors import UserError
from p5jax.data.prepare import chosen_options
from p5jax.evaluation.recipe import Figure, RecipeConfig, figures_of, format_figures
from p5jax.evaluation.results import SHOWN_METRICS, WITH_MEMORY, FamilyResult
from p5jax.evaluation.task import kind_of
from p5jax.jobs import pretrain, train
from p5jax.prompts.template_files import chosen_templates
from p5jax.runs.run import RunConfig

RESULTS = Path(__file__).parents[2] / "gin/results"
RECIPES = [file for file in sorted(RESULTS.glob("*.gin")) if "RecipeConfig" in file.read_text()]
NAME = "sequential 2-3 HR@10"


def result(prompt, *, baseline=False, **metrics):
    return FamilyResult(
        *("sequential", prompt, None if baseline else True, 7),
        {name: (value, value - 0.1, value + 0.1) for name, value in metrics.items()},
        *(pa.table({}), [], "catalogue", baseline),
    )


@pytest.mark.parametrize(
    ("band", "holds"),
    [
        ((0.4, 0.6), True),
        ((0.5, 0.6), True),  # both ends are inside
        ((0.4, 0.5), True),
        ((0.5, 0.5), True),
        ((0.51, 0.6), False),
        ((0.4, 0.49), False),
        (None, True),
    ],
)
def test_a_figure_holds_within_its_band(band, holds):
    assert Figure(NAME, 7, (0.5, 0.4, 0.6), band).holds is holds


def test_a_figure_that_is_no_number_holds_in_no_band():
    assert not Figure(NAME, 0, (math.nan,) * 3, (0.0, 1.0)).holds


def test_figures_are_the_model_s_and_stand_beside_their_bands():
    results = [
        result("2-3", baseline=True, **{"HR@10": 0.9}),
        result("2-3", **{"HR@10": 0.5, "NDCG@10": 0.25}),
        result("2-13", **{"HR@10": 0.125}),
    ]
    expected = {NAME: (0.45, 0.55), "sequential 2-13 HR@10": (0.2, 0.3)}
    expected |= {"sequential  2-3 NDCG@10": None}
    figures = figures_of(results, RecipeConfig("synthetic", expected))
    assert [figure.interval[0] for figure in figures] == [0.5, 0.125, 0.25]
    assert [figure.holds for figure in figures] == [True, False, True]
    lines = [" ".join(line.split()) for line in format_figures(figures).splitlines()]
    assert lines == [
        "n measured 95 % band",
        "sequential 2-3 HR@10 7 0.5000 [0.4000, 0.6000] 0.4500 to 0.5500 inside",
        "sequential 2-13 HR@10 7 0.1250 [0.0250, 0.2250] 0.2000 to 0.3000 OUTSIDE",
        "sequential 2-3 NDCG@10 7 0.2500 [0.1500, 0.3500] - not judged: no band measured yet",
    ]


def test_a_figure_that_is_not_measured_is_refused():
    recipe = RecipeConfig("synthetic", {"sequential 2-4 HR@10": None})
    with pytest.raises(UserError, match="sequential 2-4 HR@10.*did you mean sequential 2-3 HR@10"):
        figures_of([result("2-3", **{"HR@10": 0.5})], recipe)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({}, "found none, expected 'FAMILY PROMPT METRIC': (LOW, HIGH)"),
        ({"2-3 HR@10": None}, "found '2-3 HR@10', expected 'FAMILY PROMPT METRIC'"),
        ({"sequental 2-3 HR@10": None}, "found 'sequental' in 'sequental 2-3 HR@10', expected one"),
        ({"sequential 2-3 HR@11": None}, "found 'HR@11' in 'sequential 2-3 HR@11', expected one"),
        ({NAME: (0.6, 0.5)}, "found 'sequential 2-3 HR@10': (0.6, 0.5), expected (LOW, HIGH)"),
        ({NAME: (0.5,)}, "found (0.5,), expected 2 values, each a number or None"),
        ({NAME: (0.5, math.nan)}, "found nan, expected a finite number"),
    ],
)
def test_what_a_recipe_expects_is_checked(expected, message):
    with pytest.raises(UserError) as caught:
        RecipeConfig("synthetic", expected)
    assert str(caught.value).startswith(f"RecipeConfig.expected: {message}")


def test_a_memory_is_asked_for_by_the_figures():
    expected = {NAME: None, "rating 1-6 RMSE": None, "sequential 2-4+memory HR@10": None}
    expected |= {"sequential 2-3+memory HR@10": None}
    recipe = RecipeConfig("synthetic", expected)
    assert recipe.prompts == ("2-3", "1-6", "2-4")
    assert recipe.families == ("sequential", "rating")
    assert recipe.memory_prompt == "2-4"
    assert RecipeConfig("synthetic", {NAME: None}).memory_prompt is None


def test_there_are_recipes():
    names = {"beauty", "toys", "musical_instruments", "ml_100k", "quickstart"}
    assert names <= {file.stem for file in RECIPES}


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_shipped_recipe_names_what_there_is(file):
    """Options that its format takes, and figures that its prompts are judged by."""
    config.register_configs(*train.CONFIGS, *pretrain.CONFIGS)
    config.configure([str(file)], ["DATASET=d", "RUN_DIR=r", "SEED=1"])
    recipe = config.build(RecipeConfig)
    chosen_options(recipe.format, {**recipe.options, **recipe.files})
    for name in recipe.files.values():
        assert name.rpartition("/")[2] in file.read_text().split("include")[0], name
    if recipe.job == "pretrain":
        assert (recipe.families, recipe.prompts) == (("sequential",), ("backbone",))
        return
    asked = config.build(RunConfig)
    templates = chosen_templates(asked.templates, asked.prompts)
    if "explanation" in {template.family for template in templates.values()}:
        assert {"3-1", "E-1"} & set(templates)  # with which p5jax explain asks
    for name in recipe.expected:
        family, prompt, metric = name.split()
        prompt = prompt.removesuffix(WITH_MEMORY)
        kind = kind_of(templates[prompt])
        if (kind, family) == ("catalogue", "direct"):  # whose candidates it ranks, too
            kind, family = "candidates", "sequential"
        assert templates[prompt].family == family, name
        assert metric in SHOWN_METRICS[kind], name
        assert not asked.families or family in asked.families, name


def test_toys_are_trained_as_beauty():
    """The same settings but for the data and what was measured."""

    def bound(name):
        config.configure([f"results/{name}.gin"], ["DATASET=d", "RUN_DIR=r"])
        text = config.bound_config().split("RecipeConfig")
        return [part for part in text if not part.startswith((".files", ".expected"))]

    config.register_configs(*train.CONFIGS)
    assert bound("toys") == bound("beauty")
