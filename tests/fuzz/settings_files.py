"""Prompts, settings and weights that people bring along."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from kind import Kind
from safetensors.numpy import load_file

from p5jax.core import config
from p5jax.models.checkpoints.hugging_face import import_hugging_face
from p5jax.models.checkpoints.state_dict import read_state_dict
from p5jax.models.t5_config import T5Config
from p5jax.prompts.p5_import import import_p5_templates
from p5jax.prompts.template_files import load_templates
from p5jax.training.trainer import TrainConfig


def text_kinds(worlds: Path) -> list[Kind]:
    def p5(folder: Path) -> Any:
        return templates_as_text(import_p5_templates(folder / "templates.py"))

    def toml(folder: Path) -> Any:
        return templates_as_text(load_templates(str(folder / "own.toml")))

    return [
        Kind("P5 templates", worlds / "p5", ("templates.py",), p5, _p5_reading),
        Kind("prompt templates", worlds / "templates", ("own.toml",), toml, _toml_reading),
        Kind("gin", worlds / "gin", ("own.gin",), _gin, _gin_reading),
    ]


def templates_as_text(templates: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {id: (t.inputs, t.targets) for id, t in templates.items()}


def _p5_reading(folder: Path) -> Any:
    """The sources, where each is text with two places that are renamed."""
    tree = ast.parse((folder / "templates.py").read_bytes())
    found: dict[str, dict[str, Any]] = {}
    record: dict[str, Any] = {}
    for node in tree.body:
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript)):
            continue
        target = node.targets[0]
        name = target.value.id if isinstance(target.value, ast.Name) else ""
        if name == "template" and isinstance(target.slice, ast.Constant):
            try:
                record[target.slice.value] = ast.literal_eval(node.value)
            except ValueError:
                return None
        elif name == "group":
            found[record.get("id", "")] = record
            record = {}
    if any(
        r.get("source_argv") != ["user_desc", "purchase_history"]
        or r.get("target_argv") != ["item_id"]
        or r.get("target") != "{}"
        or not re.fullmatch(r"[^{}\\]*\{\}[^{}\\]*\{\}[^{}\\]*", str(r.get("source")))
        for r in found.values()
    ):
        return None
    return {
        id: (r["source"].replace("{}", "{udesc}", 1).replace("{}", "{hist}"), "{item}")
        for id, r in found.items()
    }


def _toml_reading(folder: Path) -> Any:
    tables = tomllib.loads((folder / "own.toml").read_bytes().decode("utf-8-sig"))
    return {id: (table["inputs"], table["targets"]) for id, table in tables.items()}


def _gin(folder: Path) -> Any:
    config.register_configs(T5Config, TrainConfig)
    config.configure([str(folder / "own.gin")])
    return {"T5Config": _settings(T5Config), "TrainConfig": _settings(TrainConfig)}


def _settings(cls: type) -> dict[str, Any]:
    settings = asdict(config.build(cls))
    settings.pop("word_starts", None)
    return settings


def _gin_reading(folder: Path) -> Any:
    """The defaults and what each plain line says; None where a line is anything else."""
    macros, lines = {}, []
    for line in (folder / "own.gin").read_bytes().decode("utf-8").split("\n"):
        match = re.fullmatch(r"(?:(\w+)\.)?(\w+) = (\S.*)", line)
        if match:
            lines.append(match.groups())
        elif line.strip() and not line.startswith("#"):
            return None
    try:
        macros = {name: ast.literal_eval(v) for cls, name, v in lines if cls is None}
        bound = [
            (c, n, macros[v[1:]] if v[0] == "%" else ast.literal_eval(v)) for c, n, v in lines if c
        ]
    except (ValueError, SyntaxError, KeyError):
        return None
    found = {"T5Config": asdict(T5Config(vocab_size=128)), "TrainConfig": asdict(TrainConfig())}
    del found["T5Config"]["word_starts"]
    for cls, name, value in bound:
        named = type(value) is int and isinstance(found[cls].get(name), str)  # a folder 2026
        found[cls][name] = str(value) if named else value
    return found


def weight_kinds(worlds: Path) -> list[Kind]:
    def hugging_face(folder: Path) -> Any:
        imported, params = import_hugging_face(folder)
        return {"width": imported.emb_dim, "sums": _sums(jax.tree.leaves(params))}

    def tensors(folder: Path) -> Any:
        width = json.loads((folder / "config.json").read_bytes())["d_model"]
        loaded = load_file(folder / "model.safetensors")
        return {"width": width, "sums": _sums(loaded.values())}

    files = ("config.json", "model.safetensors")
    kinds = [Kind("Hugging Face", worlds / "hugging_face", files, hugging_face, tensors)]
    if (worlds / "pth").is_dir():
        import torch  # noqa: F401 - the first import takes longer than an input may

        opened = lambda folder: read_state_dict(folder / "state.pth")  # noqa: E731
        kinds.append(Kind("pth", worlds / "pth", ("state.pth",), opened, _torch))
    return kinds


def _sums(arrays: Any) -> list[float]:
    """One number for each array, whatever its name and orientation."""
    return sorted(round(float(np.abs(np.asarray(a, np.float64)).sum()), 4) for a in arrays)


def _torch(folder: Path) -> Any:
    import torch

    try:
        state = torch.load(folder / "state.pth", weights_only=True)
    except Exception:
        return None
    if not isinstance(state, dict):
        return None
    return {name: t.numpy() for name, t in state.items() if isinstance(t, torch.Tensor)}
