"""The manifests of all folders: each field is known, there and of its kind, or it is one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest

from p5jax.core.errors import UserError
from p5jax.core.folder import OutputFolder, as_json
from p5jax.data.dataset import DATASET_FOLDER
from p5jax.inference.mixing import Mixing
from p5jax.memory.settings import MemorySettings
from p5jax.memory.stored_pairs import PAIRS_FOLDER
from p5jax.models.t5_config import OF_VOCABULARY, T5Config
from p5jax.pipeline.config import PipelineConfig
from p5jax.pipeline.shards import SHARD_FOLDER
from p5jax.ppr.backbone.model import BackboneConfig
from p5jax.ppr.backbone.run import BACKBONE_RUN
from p5jax.ppr.cold.protocol import ColdStartConfig
from p5jax.ppr.cold_study import STUDY
from p5jax.ppr.generator import PromptConfig
from p5jax.ppr.profiles import Attribute, ProfileConfig, ProfileSchema
from p5jax.ppr.soft.training import SOFT_PROMPT
from p5jax.ppr.tuned import TUNED
from p5jax.ppr.tuning import TuneConfig
from p5jax.prompts.families import FamilyConfig
from p5jax.runs.run import RUN_FOLDER
from p5jax.runs.stored_memory import STORED_MEMORY
from p5jax.text.vocabulary import VOCABULARY_FOLDER
from p5jax.training.optimizer import OptimizerConfig
from p5jax.training.trainer import TrainConfig
from p5jax.triggers.layout import Layout
from p5jax.triggers.prompt import TRIGGER_FOLDER
from p5jax.triggers.settings import SearchConfig

A, B = "a" * 64, "b" * 64
PLACE = {"path": "/a", "relative": "../a"}
DATASET = {**PLACE, "name": "toy", "fingerprint": A, "id_scheme": "random", "leaky": False}
MODEL = {k: v for k, v in asdict(T5Config(128)).items() if k not in OF_VOCABULARY}
SCHEMA = ProfileSchema((Attribute("age", edges=(20.0, 40.0)), Attribute("city", ("A", "B"))))
IDENTITY = {"params": A, "vocabulary": B, "dataset": A}
PIPELINE = {k: v for k, v in asdict(PipelineConfig()).items() if k not in ("threads", "workers")}

GOOD: list[tuple[OutputFolder, dict[str, Any]]] = [
    (
        DATASET_FOLDER,
        {
            "name": "toy",
            "format": "recbole",
            "sources": [{"path": "/a", "bytes": 3, "sha256": A}],
            "protocol": {"k_core": 5, "stars_from": None},
            "counts": {"users": 3},
            "item_ids": {"scheme": "random", "seed": 0, "leaky": False},
            "tables": dict.fromkeys(("users", "items", "interactions", "reviews"), A),
        },
    ),
    (VOCABULARY_FOLDER, {"fingerprint": A, "pieces": 300, "id_tokens": ["<c0_1>"]}),
    (
        RUN_FOLDER,
        {
            "dataset": DATASET,
            "vocabulary": A,
            "vocabulary_source": "4000 pieces",
            "templates": B,
            "families": ["rating"],
            "family_config": asdict(FamilyConfig()),
            "model": MODEL,
            "initial_checkpoint": "",
        },
    ),
    (
        STORED_MEMORY,
        {
            "params": A,
            "settings": asdict(MemorySettings(0.25, 0.5, Mixing("mixture", 0.3))),
            "chosen": {"prompt": "2-3", "users": 9, "model": 0.1, "mixed": 0.2},
        },
    ),
    (PAIRS_FOLDER, {"dataset": A}),
    (
        SHARD_FOLDER,
        {
            "stream": {"seed": 0},
            "epochs": 1,
            "draws": 9,
            "shards": 1,
            "dtype": "<u2",
            "files": {"draws-00000-of-00001.array_record": {"draws": 9, "bytes": 100}},
        },
    ),
    (
        TRIGGER_FOLDER,
        {
            "family": "sequential",
            "layout": asdict(Layout(2, 1)),
            "task_tokens": [5, 6],
            "default_user_tokens": [7],
            "prompt": "{uid} {hist} a b {trigger}",
            "users": "users-3.parquet",
            "identity": IDENTITY,
            "fingerprint": A,
            "round": 3,
            "state": {"round": 3, "epoch": 1, "left": 1, "idle": 0, "changed": True, "tried": [0]},
            "settings": asdict(SearchConfig("sequential")),
            "finished": False,
        },
    ),
    (
        BACKBONE_RUN,
        {
            "dataset": DATASET,
            "users": {"count": 3, "hash": "7a4644928f3a08db"},
            "backbone": asdict(BackboneConfig(9)),
            "settings": {"loss": {}},
        },
    ),
    (
        TUNED,
        {
            "backbone": {**PLACE, "params": A},
            "dataset": B,
            "protocol": asdict(ColdStartConfig()),
            "profile": asdict(SCHEMA),
            "tune": asdict(TuneConfig()),
            "prompt": asdict(PromptConfig()),
        },
    ),
    (
        SOFT_PROMPT,
        {
            "identity": IDENTITY,
            "profile": asdict(SCHEMA),
            "settings": {
                "SoftConfig": {"text": "2-3", "rank_users": 5},
                "PromptConfig": asdict(PromptConfig()),
                "ProfileConfig": asdict(ProfileConfig()),
                "PipelineConfig": PIPELINE,
                "OptimizerConfig": asdict(OptimizerConfig()),
                "TrainConfig": TrainConfig().identity(),
            },
        },
    ),
    (STUDY, {"dataset": A, "settings": {"protocol": asdict(ColdStartConfig())}, "source": None}),
]
KINDS = pytest.mark.parametrize(
    ("kind", "good"), [pytest.param(*each, id=each[0].kind) for each in GOOD]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values within a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in inner if isinstance(value, dict | list) else ():
        yield (*path, key)
        if isinstance(each, dict | list):
            yield from places(each, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a path."""
    document = copy.deepcopy(document)
    *above, last = path
    inner = document
    for key in above:
        inner = inner[key]
    inner[last] = value
    return document


def read(kind: OutputFolder, folder, document: Any) -> dict[str, Any]:
    (folder / kind.manifest).write_text(json.dumps(document))
    return kind.read(folder)


@KINDS
def test_a_sound_manifest_is_read_as_it_was_written(tmp_path, kind, good):
    kind.write(tmp_path, good)
    assert kind.read(tmp_path) == {kind.version_key: kind.version, **as_json(good)}


@KINDS
def test_every_field_of_another_kind_is_one_line(tmp_path, kind, good):
    """Nothing but a number is ever a number, and nothing but a text a text."""
    document = as_json({kind.version_key: kind.version, **good})
    for path in places(document):
        for value in ({"\ud800": 1}, 2**70):
            with pytest.raises(UserError, match=kind.manifest) as caught:
                read(kind, tmp_path, changed(document, path, value))
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < len(str(tmp_path)) + 400


@KINDS
def test_keys_that_are_missing_or_unknown_are_named(tmp_path, kind, good):
    document = as_json({kind.version_key: kind.version, **good})
    for key in good:
        if key in ("fingerprint", "files") and kind in (TRIGGER_FOLDER, SHARD_FOLDER):
            continue  # of a folder by an earlier version; of an export that is not finished
        less = {name: value for name, value in document.items() if name != key}
        with pytest.raises(UserError, match=f"found no {key}, expected"):
            read(kind, tmp_path, less)
    with pytest.raises(UserError, match="found key 'surprise'"):
        read(kind, tmp_path, {**document, "surprise": 1})


@pytest.mark.parametrize(
    ("kind", "path", "value", "message"),
    [
        (RUN_FOLDER, ("vocabulary",), "abc", "vocabulary: found 'abc', expected text of the form"),
        (RUN_FOLDER, ("model", "dtype"), "int8", "model: T5Config.dtype: found 'int8'"),
        (RUN_FOLDER, ("model", "emb_din"), 3, "model: found key 'emb_din'; did you mean emb_dim"),
        (TRIGGER_FOLDER, ("users",), "../u.parquet", "users: found '../u.parquet', expected text"),
        (TRIGGER_FOLDER, ("family",), "rating", "family: found 'rating', expected 'sequential' or"),
        (
            TRIGGER_FOLDER,
            ("layout", "position"),
            "x",
            "layout: Layout.position: found 'x', expected",
        ),
        (SHARD_FOLDER, ("dtype",), "O", "dtype: found 'O', expected '<u2' or '<u4'"),
        (SHARD_FOLDER, ("files", "../x"), {"draws": 1, "bytes": 1}, "files: found '../x'"),
        (TUNED, ("tune", "steps"), -1, "tune: "),
        (
            TUNED,
            ("profile", "attributes", 0, "edges"),
            [2, 1],
            "profile: attributes: 0: edges: found (2, 1)",
        ),
        (TUNED, ("protocol", "k_shots"), [0], "protocol: ColdStartConfig.k_shots: found 0,"),
        (BACKBONE_RUN, ("backbone", "num_heads"), 7, "backbone: BackboneConfig.emb_dim: found 64"),
        (STUDY, ("settings", "seeds"), 0, "settings: StudyConfig.seeds: found 0, expected 1"),
    ],
)
def test_values_out_of_range_are_named(tmp_path, kind, path, value, message):
    document = as_json({kind.version_key: kind.version, **dict(GOOD_OF[kind])})
    with pytest.raises(UserError) as caught:
        read(kind, tmp_path, changed(document, path, value))
    assert str(caught.value).startswith(f"{tmp_path / kind.manifest}: {message}")


GOOD_OF = dict(GOOD)
