"""Splits by time: as an option, of raw data, and of a dataset that was prepared so."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from kind import Kind
from raw_files import K_CORE, table_rows
from worlds import CUTS

import p5jax
from p5jax.data.dataset import Dataset
from p5jax.data.time_split import TimeSplit

TIMES = np.arange(1000)


def time_kinds(worlds: Path) -> list[Kind]:
    stored = worlds / "timed"
    files = tuple(file.name for file in sorted(stored.iterdir()))
    reading = partial(_stored_reading, _stored(stored))
    return [
        Kind("split option", worlds / "split", ("split",), _option, _option_reading),
        Kind("table by time", worlds / "table", ("t.csv",), _prepared, _prepared_reading),
        Kind("dataset by time", stored, files, _stored, reading),
    ]


def _option(folder: Path) -> Any:
    split = TimeSplit.read((folder / "split").read_text(encoding="utf-8", errors="replace"))
    return None if split is None else list(split.cuts(TIMES, "second"))


def _option_reading(folder: Path) -> Any:
    """Shares and numbers that are plainly written; None for other moments."""
    text = (folder / "split").read_text(encoding="utf-8", errors="replace")
    shares = re.fullmatch(r"time:(\.\d{1,9})/(\.\d{1,9})/(\.\d{1,9})", text, re.ASCII)
    if shares:
        first, second, _ = map(float, shares.groups())
        return [int(TIMES[round(end * len(TIMES))]) for end in (first, first + second)]
    numbers = re.fullmatch(r"time:(\d+),(\d+)", text, re.ASCII)
    return list(map(int, numbers.groups())) if numbers else None


def _prepared(folder: Path) -> Any:
    out, (first, second) = folder.parent / "prepared", CUTS
    options = {"interactions": folder / "t.csv", "split": f"time:{first},{second}"}
    dataset = p5jax.prepare("table", out, k_core=K_CORE, **options)
    return {
        (dataset.user_keys[row["user"]], dataset.item_keys[row["item"]]): row["split"]
        for row in dataset.interactions.to_pylist()
    }


def _prepared_reading(folder: Path) -> Any:
    """Which rows of the k-core are before the first cut, the second, and after both."""
    rows = table_rows(folder)
    if rows is None:
        return None
    return {pair: (time >= CUTS[0]) + (time >= CUTS[1]) for pair, time in rows.items()}


def _stored(folder: Path) -> Any:
    dataset = Dataset.load(folder)
    held = {split: dataset.held_out_users(split).tolist() for split in ("validation", "test")}
    return {
        "cuts": list(dataset.cuts or ()),
        "held": held,
        "targets": {
            split: [int(dataset.target(user, split)) for user in held[split]] for split in held
        },
        "training": [items.tolist() for items in dataset.training_sequences],
    }


def _stored_reading(pristine: Any, folder: Path) -> Any:
    """All is in the tables, whose hashes the manifest has; but for the cuts that it states."""
    manifest = json.loads((folder / "manifest.json").read_bytes().decode("utf-8-sig"))
    return pristine | {"cuts": manifest["protocol"].get("cuts", [])}
