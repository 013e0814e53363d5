"""What a model's folder says of its dataset, and the way back to that dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from p5jax.core.errors import UserError
from p5jax.core.kinds import Checksum
from p5jax.data.dataset import Dataset


class DatasetEntry(TypedDict):
    """What a manifest says of its dataset."""

    path: str
    relative: str
    name: str
    fingerprint: Checksum
    id_scheme: str
    leaky: bool


class BackboneEntry(TypedDict):
    """What a manifest says of a backbone."""

    path: str
    relative: str
    params: Checksum


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


def found_at(entry: Mapping[str, Any], folder: Path) -> Path | None:
    """Where the thing that a manifest in `folder` names is: as recorded, or moved with it."""
    paths = Path(entry["path"]), folder / entry["relative"]
    return next((path for path in paths if path.exists()), None)


def load_dataset(folder: Path, manifest: dict[str, Any], command: str) -> Dataset:
    """Open a model's dataset, as recorded or beside the folder when both were moved.

    UserError when it is at neither path, or differs from the one the model was trained on.
    """
    entry = manifest["dataset"]
    path = found_at(entry, folder)
    if path is None:
        raise UserError(
            f"{folder}: its dataset is no longer at {entry['path']}; run {command} again with its"
            " DATASET"
        )
    dataset = Dataset.load(path)
    expected, found = entry["fingerprint"], dataset.fingerprint
    if expected != found:
        was = f"trained on {entry['id_scheme']} ids, fingerprint {expected[:12]}"
        now = f"has {dataset.id_scheme} ids, fingerprint {found[:12]}"
        raise UserError(f"{folder}: the model was {was}; {dataset.path} now {now}")
    return dataset
