"""Every field of every settings class refuses what it cannot be, in one line that names it.

The classes are found by importing all of p5jax, and each number must stand in the table below: a
new class or field without its limits fails here.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
import typing
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import p5jax
from p5jax.core.errors import UserError
from p5jax.core.settings import check

# group -> (values that are refused, values that are taken)
GROUPS = {
    "size": ((0, -1, 2**31, 10**5000), (1, 8)),
    "count": ((-1, 2**31), (0, 7)),
    "two or more": ((1, 0, -3), (2, 9)),
    "seed": ((-1, 2**32), (0, 2**32 - 1)),
    "number from 0": ((-0.5, 10**400), (0, 0.5, 3)),
    "number from 1": ((0.9, -1.0), (1, 2.5)),
    "number above 0": ((0, -1e-9), (1e-9, 4)),
    "share": ((-0.1, 1.1), (0, 0.5, 1)),
    "share below 1": ((-0.1, 1), (0, 0.5)),
    "share within 0 and 1": ((0, 1, -0.1), (0.25,)),
    "share below a half": ((0.5, -0.1), (0, 0.25)),
    "any number": ((), (-3.5, 0, 2)),
    "mesh": ((0, -2), (1, 8)),
    "port": ((-1, 65536), (0, 8000)),
    "buckets": ((3, 0, -1), (4, 64)),
    "distance": ((0, -1, 16), (17, 256)),  # more than half of the usual 32 buckets
}
LIMITS = {
    "BackboneConfig": "num_items=count emb_dim=size num_layers=size num_heads=size mlp_dim=size"
    " max_history=size dropout_rate=share_below_1 temperature=number_above_0",
    "BulkConfig": "beam=size k=size batch_size=size",
    "ClusterConfig": "branching=two_or_more max_leaf=size slack=number_from_1",
    "ColdItemsConfig": "share=share_within_0_and_1 interactions=count limit=size",
    "ColdStartConfig": "share=share_within_0_and_1 first=size threshold=two_or_more"
    " train_share=share_within_0_and_1 negatives=size k_shots=size",
    "EvaluationConfig": "beam=size batch_size=size yes_no_users=size max_length=size",
    "FamilyConfig": "max_source=size num_candidates=size sequential_per_user=size"
    " direct_per_user=size max_history=count repeat=count horizon=size"
    " hard_negatives=share",
    "ServeConfig": "port=port beam=size rows=size queue=size seconds=number_above_0",
    "Layout": "task_tokens=count user_tokens=count",
    "LossConfig": "contrastive_weight=number_from_0 temperature=number_above_0",
    "MeshConfig": "data=mesh model=mesh",
    "NewRowsOptions": "",
    "ObjectiveConfig": "label_smoothing=share_below_1 logits_length=count",
    "OptimizerConfig": "learning_rate=number_from_0 warmup_fraction=share"
    " weight_decay=number_from_0 b1=share_below_1 b2=share_below_1 eps=number_above_0"
    " clip=number_from_0 accumulate=size",
    "PipelineConfig": "batch_size=size source_lengths=size target_lengths=size rates=number_from_0"
    " window=count threads=count workers=count",
    "PprConfig": "validation_users=count",
    "PredictionConfig": "steps=size validate_every=count learning_rate=number_from_0"
    " batch_size=size validation_share=share_within_0_and_1",
    "PretrainConfig": "validation_users=count",
    "ProfileConfig": "bins=two_or_more max_categories=size",
    "ProgramsConfig": "beam=size batch_size=size",
    "PromptConfig": "length=size hidden=count attribute_dim=size",
    "RankingConfig": "beam=size",
    "RecipeConfig": "",
    "RatingOptions": "",
    "RunConfig": "vocabulary_size=size",
    "SearchConfig": "candidates=size epochs=size patience=size users=count gradient_examples=size"
    " evidence=size accept_level=share racing_level=share_below_a_half",
    "SequenceConfig": "batch_size=size widths=size negatives=count",
    "SoftConfig": "rank_users=size",
    "StartConfig": "",
    "StudyConfig": "seeds=size noise=share",
    "SurrogateConfig": "coefficient=any_number beam=size batch_size=size max_length=size",
    "T5Config": "vocab_size=count emb_dim=size num_heads=size num_encoder_layers=size"
    " num_decoder_layers=size head_dim=size mlp_dim=size dropout_rate=share_below_1"
    " decoder_dropout_rate=share_below_1 output_dropout_rate=share_below_1"
    " item_dropout_rate=share_below_1 first_id_token=count"
    " relpos_buckets=buckets relpos_max_distance=distance",
    "TrainConfig": "steps=size log_every=size validate_every=count checkpoint_every=count"
    " keep=size",
    "TuneConfig": "steps=size validate_every=count learning_rate=number_from_0"
    " weight_decay=number_from_0 negatives=size contrastive_weight=number_from_0"
    " temperature=number_above_0 mask_rate=share_below_1 batch_size=size"
    " validation_share=share_below_1 profile_noise=share",
    "ValidationConfig": "examples=count rank_users=count",
    "ViewConfig": "crop=share mask=share reorder=share",
    **dict.fromkeys(
        ("PrepareOptions", "AmazonOptions", "RecboleOptions", "SequencesOptions", "TableOptions"),
        "k_core=size min_rating=any_number id_levels=size id_codes=two_or_more"
        " memory=number_above_0",
    ),
    "SyntheticOptions": "k_core=size min_rating=any_number id_levels=size id_codes=two_or_more"
    " memory=number_above_0 users=size items=size events=size",
}
# What must be given, and the names that a text field takes.
GIVEN = {
    "ClusterConfig": {"slack": 1.5},
    "Layout": {"user_tokens": 1},
    "BackboneConfig": {"num_items": 9},
    "PrepareOptions": {"item_ids": "semantic"},
    "AmazonOptions": {"item_ids": "semantic", "reviews": "r.json"},
    "RecboleOptions": {"item_ids": "semantic", "folder": "f"},
    "SequencesOptions": {"item_ids": "semantic", "sequences": "s.txt"},
    "SyntheticOptions": {"item_ids": "semantic"},
    "NewRowsOptions": {"interactions": "t.csv"},
    "TableOptions": {"item_ids": "semantic", "interactions": "t.csv"},
    "PprConfig": {"dataset": "d", "run_dir": "r"},
    "RecipeConfig": {"format": "synthetic", "expected": {"sequential 2-3 HR@10": None}},
    "RunConfig": {"dataset": "d", "run_dir": "r"},
    "SearchConfig": {"family": "sequential"},
    "SoftConfig": {"run": "r", "out": "o"},
    "T5Config": {"vocab_size": 9},
}
CHOSEN = {
    *("ColdStartConfig.kind", "LossConfig.loss", "OptimizerConfig.name", "SearchConfig.family"),
    *("OptimizerConfig.schedule", "PipelineConfig.batching", "PprConfig.users", "TuneConfig.loss"),
    *("PredictionConfig.mode", "RankingConfig.method", "SurrogateConfig.criterion"),
    *("SurrogateConfig.method", "T5Config.dtype", "T5Config.mlp_activations", "TuneConfig.kind"),
    "T5Config.likelihood",
    *("TrainConfig.best_mode", "TuneConfig.mode", "StudyConfig.ablate", "Layout.position"),
    *("Layout.user_place", "PrepareOptions.item_ids", "SyntheticOptions.item_ids"),
    *("AmazonOptions.item_ids", "RecboleOptions.item_ids", "SequencesOptions.item_ids"),
    "TableOptions.item_ids",
    *(f"{kind}Options.split" for kind in ("Prepare", "Amazon", "Recbole", "Sequences", "Table")),
    "SyntheticOptions.split",
    *("EvaluationConfig.method", "BulkConfig.method", "RecipeConfig.format", "RecipeConfig.job"),
}
LEFT_OUT = ("p5jax.tasks", "p5jax.configs", "p5jax.data.tfds", "p5jax.core.beam")  # extras


def _settings_classes():
    """All dataclasses that gin or options fill, by name, and those that are fields of them."""
    found = []
    for module in pkgutil.walk_packages(p5jax.__path__, "p5jax."):
        if module.name.startswith(LEFT_OUT):
            continue
        loaded = importlib.import_module(module.name)
        found += getattr(loaded, "CONFIGS", ())
        found += [
            each
            for name, each in vars(loaded).items()
            if name.endswith(("Config", "Options")) and dataclasses.is_dataclass(each)
        ]
    for cls in found:  # grows while it is read
        hints = typing.get_type_hints(cls).values()
        found += [hint for hint in hints if dataclasses.is_dataclass(hint) and hint not in found]
    return {cls.__name__: cls for cls in found}


CLASSES = _settings_classes()
FIELDS = [
    (name, field.name, typing.get_type_hints(cls)[field.name])
    for name, cls in sorted(CLASSES.items())
    for field in dataclasses.fields(cls)
]


def made(name, field, value):
    return CLASSES[name](**{**GIVEN.get(name, {}), field: value})


def refused(name, field, value):
    with pytest.raises(UserError) as caught:
        made(name, field, value)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    assert "found" in message or "expected" in message
    assert field in message or name in message


def limits_of(name, field):
    """The values that are refused and taken."""
    if field.endswith("seed"):
        return GROUPS["seed"]
    table = dict(each.split("=") for each in LIMITS[name].split())
    return GROUPS[table[field].replace("_", " ")]


def members(hint):
    """The types of the numbers or texts in a field, and how to wrap one."""
    kinds = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return kinds[0], lambda value: (value,) * (1 if ... in kinds else len(kinds))
    if typing.get_origin(hint) is Mapping:
        return kinds[1], lambda value: {"rating": value}
    return next((kind for kind in kinds if kind in (int, float)), hint), lambda value: value


def test_the_classes_are_found():
    assert {"T5Config", "RunConfig", "BulkConfig", "AmazonOptions", "Layout"} <= set(CLASSES)
    assert all(cls.__dataclass_params__.frozen for cls in CLASSES.values())
    assert set(LIMITS) == set(CLASSES)


@pytest.mark.parametrize(("name", "field", "hint"), FIELDS, ids=lambda value: str(value))
def test_a_field_refuses_what_it_cannot_be(name, field, hint):
    kind, wrap = members(hint)
    if kind in (int, float):
        bad, good = limits_of(name, field)
        bad = (*bad, math.nan, math.inf, -math.inf, "3", True, [1], None, 2j)
        bad = (*bad, 1.5) if kind is int else bad
        for value in bad:
            if not (value is None and type(None) in typing.get_args(hint)):
                refused(name, field, wrap(value))
        for value in good:
            found = getattr(made(name, field, wrap(value)), field)
            assert found == wrap(value)
            each = next(iter(found.values() if isinstance(found, dict) else [found]))
            assert type(each[0] if isinstance(each, tuple) else each) is kind
        if wrap(1) != 1:
            refused(name, field, 3)
            refused(name, field, "12")
    elif kind is bool:
        for value in (0, 1, "yes", "False", None, math.nan, ()):
            refused(name, field, value)
    elif kind is str:
        for value in (3, 1.5, True, ["x"], math.nan, b"x", "a\0b"):
            refused(name, field, wrap(value))
        if f"{name}.{field}" in CHOSEN:
            refused(name, field, wrap("no such"))
        if wrap("x") != "x":
            refused(name, field, "abc")  # no list of three letters
    elif dataclasses.is_dataclass(hint):
        for value in (None, 3, {}, "x"):
            refused(name, field, value)
    else:
        refused(name, field, 3)
        refused(name, field, math.nan)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("TrainConfig", {"steps": 0}, "TrainConfig.steps: found 0, expected 1 or more"),
        ("TrainConfig", {"steps": "9"}, "TrainConfig.steps: found '9', expected a whole number"),
        (
            "TrainConfig",
            {"best_mode": "mim"},
            "TrainConfig.best_mode: found 'mim', expected min or max; did you mean min?",
        ),
        (
            "PipelineConfig",
            {"source_lengths": (8, math.nan)},
            "PipelineConfig.source_lengths: found nan, expected a whole number",
        ),
        (
            "PipelineConfig",
            {"source_lengths": ()},
            "PipelineConfig.source_lengths: found (), expected ascending lengths",
        ),
        ("LossConfig", {"temperature": 0}, "LossConfig.temperature: found 0, expected more than 0"),
        (
            "OptimizerConfig",
            {"learning_rate": math.nan},
            "OptimizerConfig.learning_rate: found nan, expected a finite number",
        ),
        (
            "SyntheticOptions",
            {"rating_scale": (1, math.inf)},
            "SyntheticOptions.rating_scale: found inf, expected a finite number",
        ),
        (
            "SyntheticOptions",
            {"rating_scale": (1, 2, 3)},
            "SyntheticOptions.rating_scale: found (1, 2, 3), expected 2 values, each a number or"
            " None",
        ),
        (
            "SearchConfig",
            {"racing_level": 0.5},
            "SearchConfig.racing_level: found 0.5, expected 0 to below 0.5",
        ),
        (
            "T5Config",
            {"emb_dim": 2**40},
            "T5Config.emb_dim: found 1099511627776, expected 1 to 2147483647",
        ),
    ],
)
def test_the_line_says_what_was_found_and_expected(name, given, message):
    with pytest.raises(UserError) as caught:
        CLASSES[name](**{**GIVEN.get(name, {}), **given})
    assert str(caught.value) == message


def test_what_means_the_same_becomes_what_the_field_is():
    pipeline = CLASSES["PipelineConfig"](source_lengths=[8, np.int64(16)], rates={"rating": 1})
    assert pipeline.source_lengths == (8, 16)
    assert type(pipeline.source_lengths[1]) is int
    assert type(pipeline.rates["rating"]) is float
    assert type(CLASSES["OptimizerConfig"](learning_rate=1).learning_rate) is float
    assert CLASSES["RunConfig"](dataset=Path("a"), run_dir=Path("b")).dataset == "a"


def test_limits_of_no_field_are_a_mistake_of_the_class():
    @dataclasses.dataclass(frozen=True)
    class OwnConfig:
        size: int = 1

        def __post_init__(self):
            check(self, sise=("a",))

    with pytest.raises(TypeError, match="has no field sise"):
        OwnConfig()
