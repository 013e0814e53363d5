"""The manifest of a folder with a model: what it was made from, and whether that is still so."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from p5jax.core.errors import UserError
from p5jax.data.dataset import Dataset


def read_manifest(file: Path, version: int, command: str) -> dict[str, Any]:
    """Return a folder's manifest; UserError when it is absent or of another format version.

    `command` is what makes such folders, for the message.
    """
    if not file.is_file():
        raise UserError(f"{file.parent}: not a run folder (no {file.name}); see {command}")
    try:
        manifest = json.loads(file.read_text())
        found = manifest["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not a run manifest ({error!r})") from error
    if found != version:
        raise UserError(f"{file}: format version {found}, expected {version}")
    return manifest


def dataset_entry(dataset: Dataset, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what the manifest in `folder` says of its dataset."""
    path = dataset.path.resolve()
    return {
        "path": str(path),
        "relative": os.path.relpath(path, Path(folder).resolve()),
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "id_scheme": dataset.id_scheme,
        "leaky": dataset.leaky,
    }


def load_dataset(folder: Path, manifest: dict[str, Any], command: str) -> Dataset:
    """Open a model's dataset, as recorded or beside the folder when both were moved.

    UserError when it is in neither place or differs from the one the model was trained on.
    """
    entry = manifest["dataset"]
    recorded = Path(entry["path"])
    place = next((p for p in (recorded, folder / entry["relative"]) if p.exists()), None)
    if place is None:
        raise UserError(
            f"{folder}: its dataset is no longer at {recorded}; run {command} again with its"
            " DATASET"
        )
    dataset = Dataset.load(place)
    expected, found = entry["fingerprint"], dataset.fingerprint
    if expected != found:
        was = f"trained on {entry['id_scheme']} ids, fingerprint {expected[:12]}"
        now = f"has {dataset.id_scheme} ids, fingerprint {found[:12]}"
        raise UserError(f"{folder}: the model was {was}; {dataset.path} now {now}")
    return dataset


def claim(file: Path, version: int, command: str, wanted: dict[str, Any], begun: bool) -> None:
    """Raise UserError when a folder's manifest is there and not the one wanted.

    A manifest of what has not `begun` (a start that failed before anything was kept) gives way.
    """
    if file.is_file():
        there = read_manifest(file, version, command)
        if begun:
            refuse_difference(file, there, wanted)


def refuse_difference(
    file: Path, there: dict[str, Any], wanted: dict[str, Any], prefix: str = ""
) -> None:
    """Raise UserError naming the first value in which a manifest is not the one wanted."""
    for key in wanted:
        if key in ("path", "relative"):
            continue
        old, new = there.get(key), wanted[key]
        if isinstance(old, dict) and isinstance(new, dict):
            refuse_difference(file, old, new, f"{prefix}{key}.")
        elif old != new:
            raise UserError(
                f"{file}: this run has {prefix}{key} = {old!r}, the configuration asks for {new!r};"
                " choose another folder"
            )
