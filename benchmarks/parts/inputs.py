"""What is made beforehand, where there is time: reference values and datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RECIPES = ("beauty", "toys")


def prepare(data: Path, raw: Path | None, tiny: bool) -> None:
    """Write `data`: what `parts.parity` compares with, and datasets."""
    import os

    os.environ["JAX_PLATFORMS"] = "cpu"  # the reference is the CPU's
    from parts.parity import store_reference

    data.mkdir(parents=True, exist_ok=True)
    store_reference(data)
    for name in RECIPES[: 1 if raw is None else None]:
        _dataset(data / name, name, raw, tiny)


def _dataset(folder: Path, name: str, raw: Path | None, tiny: bool) -> None:
    """A recipe's dataset; without raw files a synthetic one in its place."""
    from p5jax.core import config
    from p5jax.data.prepare import prepare as prepare_data
    from p5jax.evaluation.recipe import RecipeConfig
    from p5jax.jobs.start import configure
    from p5jax.jobs.train import CONFIGS

    options: dict[str, Any]
    if raw is None:
        users, items = (120, 60) if tiny else (2000, 1000)
        kind, options = "synthetic", {"users": users, "items": items, "item_ids": "token"}
    else:
        configure(CONFIGS, (f"results/{name}.gin",), None, {"DATASET": "", "RUN_DIR": ""})
        recipe = config.build(RecipeConfig)
        files = {option: str(raw / file) for option, file in recipe.files.items()}
        kind, options = recipe.format, files | dict(recipe.options)
    dataset = prepare_data(kind, folder, **options)
    print(f"{folder}: {dataset.num_users} users, {dataset.num_items} items")
