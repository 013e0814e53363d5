"""What p5jax stored: as it was, but for the manifests and tables that anyone can read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow.parquet as pq
from kind import Kind
from settings_files import templates_as_text

from p5jax.core.folder import as_json
from p5jax.data.dataset import Dataset
from p5jax.evaluation.results import load_results
from p5jax.ppr.backbone.run import PprRun
from p5jax.ppr.cold.results import read_per_user
from p5jax.ppr.profiles import ProfileSchema
from p5jax.ppr.soft.training import load_soft
from p5jax.ppr.tuned import Tuned
from p5jax.runs.run import Run
from p5jax.runs.stored_memory import STORED_MEMORY
from p5jax.serving.bulk import RANKING_FOLDER
from p5jax.text.vocabulary import Vocabulary
from p5jax.training.writers import read_metrics
from p5jax.triggers.prompt import load_triggers


def stored_kinds(worlds: Path) -> list[Kind]:
    run = Run.load(worlds / "run")
    assert run.params  # what belongs to the run wants them

    def kind(
        name: str,
        folder: str,
        open: Callable[[Path], Any],
        reading: Callable[[Any, Path], Any] = lambda pristine, folder: pristine,
        files: tuple[str, ...] = (),
    ) -> Kind:
        below = worlds / folder
        found = [
            f for f in sorted(below.rglob("*")) if f.is_file() and "tensorboard" not in f.parts
        ]
        mine = files or tuple(str(f.relative_to(below)) for f in found)
        return Kind(name, below, mine, open, partial(reading, open(below)))

    def triggers(folder: Path) -> Any:
        prompt = load_triggers(folder, run)
        return {"task": prompt.task, "users": prompt.users, "family": prompt.family}

    def triggers_reading(pristine: Any, folder: Path) -> Any:
        manifest = _json(folder / "triggers.json")
        users = np.tile(
            np.array(manifest["default_user_tokens"], np.int32), (run.dataset.num_users, 1)
        )
        for row in pq.read_table(folder / manifest["users"]).to_pylist():
            users[run.dataset.user_keys.index(row["user"])] = row["tokens"]
        task = np.array(manifest["task_tokens"], np.int32)
        return {"task": task, "users": users, "family": manifest["family"]}

    def soft(folder: Path) -> Any:
        return _leaves(load_soft(folder, run).params)

    return [
        kind("dataset", "dataset", _dataset, _dataset_reading),
        kind("run", "run", _run, _run_reading),
        kind("memory", "run", STORED_MEMORY.read, _memory_reading, ("memory.json",)),
        kind("vocabulary", "run/vocabulary", _vocabulary),
        kind("metrics", "run", _metrics, _metrics_reading, ("metrics.jsonl",)),
        kind("evaluation", "evaluation", _evaluation, _evaluation_reading),
        kind("triggers", "triggers", triggers, triggers_reading),
        kind("ranking", "ranking", RANKING_FOLDER.read, _ranking_reading, ("_ranking.json",)),
        kind("backbone", "backbone", lambda folder: _leaves(PprRun.load(folder).params)),
        kind("tuned", "tuned", lambda folder: _leaves(Tuned.load(folder).params)),
        kind("profile schema", "tuned", _schema, _schema_reading, ("profiles.json",)),
        kind("cold results", "cold", _cold, _cold_reading),
        kind("soft prompt", "soft", soft),
    ]


def _json(file: Path) -> Any:
    return json.loads(file.read_bytes().decode("utf-8-sig"))


def _leaves(params: Any) -> dict[str, np.ndarray]:
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


def _dataset(folder: Path) -> Any:
    dataset = Dataset.load(folder)
    tables = ("users", "items", "interactions", "reviews")
    return {name: getattr(dataset, name).to_pydict() for name in tables} | {
        "scheme": dataset.id_scheme,
        "leaky": dataset.leaky,
        "name": dataset.name,
    }


def _dataset_reading(pristine: Any, folder: Path) -> Any:
    """The tables as they were: the manifest has their hashes."""
    manifest = _json(folder / "manifest.json")
    ids = manifest["item_ids"]
    return pristine | {"scheme": ids["scheme"], "leaky": ids["leaky"], "name": manifest["name"]}


def _run(folder: Path) -> Any:
    run = Run.load(folder)
    return {
        "config": as_json(asdict(run.family_config)),
        "vocabulary": run.vocabulary.fingerprint,
        "templates": templates_as_text(run.templates),
        "families": list(run.families),
        "params": _leaves(run.params),
    }


def _run_reading(pristine: Any, folder: Path) -> Any:
    manifest = _json(folder / "run.json")
    return pristine | {"config": manifest["family_config"], "families": manifest["families"]}


def _memory_reading(pristine: Any, folder: Path) -> Any:
    return _json(folder / "memory.json")


def _vocabulary(folder: Path) -> Any:
    vocabulary = Vocabulary.load(folder)
    return [vocabulary.decode([token]) for token in range(vocabulary.size)]


def _metrics(folder: Path) -> Any:
    return read_metrics(folder / "metrics.jsonl")


def _metrics_reading(pristine: Any, folder: Path) -> Any:
    """A record a line; what a kill left of the last one is passed over."""
    *lines, last = (folder / "metrics.jsonl").read_bytes().split(b"\n")
    records = [json.loads(line.decode()) for line in lines if line.strip()]
    try:
        return [*records, json.loads(last.decode())] if last.strip() else records
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            raise
    except ValueError:
        pass
    return records


def _evaluation(folder: Path) -> Any:
    return [
        {"family": r.family, "prompt": r.prompt_id, "n": r.n, "kind": r.kind}
        | {"metrics": {name: list(values) for name, values in r.metrics.items()}}
        | {"per_user": r.per_user.to_pydict()}
        for r in load_results(folder)
    ]


def _evaluation_reading(pristine: Any, folder: Path) -> Any:
    return [
        {name: row[name] for name in ("family", "prompt", "n", "kind")}
        | {
            "metrics": {
                n: [float("nan") if x is None else x for x in v] for n, v in row["metrics"].items()
            }
        }
        | {"per_user": pq.read_table(folder / row["file"]).to_pydict()}
        for row in _json(folder / "summary.json")["results"]
    ]


def _ranking_reading(pristine: Any, folder: Path) -> Any:
    return _json(folder / "_ranking.json")


def _schema(folder: Path) -> Any:
    return as_json(asdict(ProfileSchema.load(folder / "profiles.json")))["attributes"]


def _schema_reading(pristine: Any, folder: Path) -> Any:
    rows = _json(folder / "profiles.json")["attributes"]
    return [{name: row[name] for name in ("name", "categories", "edges")} for row in rows]


def _cold(folder: Path) -> Any:
    return read_per_user(folder / "cold.parquet").to_pydict()


def _cold_reading(pristine: Any, folder: Path) -> Any:
    return pq.read_table(folder / "cold.parquet").to_pydict()
