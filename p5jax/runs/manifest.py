"""What a model's folder says of its dataset, and the way back to that dataset."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from p5jax.core.errors import UserError
from p5jax.core.kinds import Checksum
from p5jax.data.dataset import DATASET_FOLDER, Dataset, tables_fingerprint


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


def load_dataset(folder: Path, manifest: dict[str, Any]) -> Dataset:
    """Open a model's dataset: as recorded, or one with its fingerprint where both were moved to.

    That is at the same relative path, or beside the folder. UserError when it is at none of them,
    or has become another than the one that the model was trained on.
    """
    entry = manifest["dataset"]
    recorded = (Path(entry["path"]), folder / entry["relative"])
    beside = (path for path in sorted(folder.absolute().parent.glob("[!.]*")) if path.is_dir())
    found = [path for path in (*recorded, *beside) if DATASET_FOLDER.is_at(path)]
    for path in found:
        with contextlib.suppress(UserError):  # a damaged dataset is none that is looked for
            if tables_fingerprint(DATASET_FOLDER.read(path)) != entry["fingerprint"]:
                continue
            return Dataset.load(path)
    expected = f"{entry['id_scheme']} ids, fingerprint {entry['fingerprint'][:12]}"
    for path in found:
        if path in recorded:
            dataset = Dataset.load(path)
            now = f"has {dataset.id_scheme} ids, fingerprint {dataset.fingerprint[:12]}"
            raise UserError(f"{folder}: the model was trained on {expected}; {path} now {now}")
    raise UserError(
        f"{folder}: its dataset is no longer at {entry['path']}, nor beside this folder; copy or"
        f" link it there (expected {entry['name']}, {expected})"
    )
