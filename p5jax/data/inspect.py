"""A description of a dataset folder: its sources, its counts, and one user's rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from p5jax.data.dataset import SPLITS, Dataset

_WIDTH = 100


def inspect(dataset: Dataset) -> str:
    """Return a description of a dataset for a person to read."""
    manifest = dataset.manifest
    ids = f"{dataset.id_scheme}{' (leaky)' if dataset.leaky else ''}, e.g. {dataset.item_ids[0]}"
    lines = [
        f"{dataset.name}: {manifest['format']} data at {dataset.path}",
        f"families   {', '.join(dataset.families)}",
        f"item ids   {ids}",
        *(
            f"source     {source['path']} ({source['bytes']:,} bytes)"
            for source in manifest["sources"]
        ),
        *_block("understood", manifest.get("understood", {})),
        *_block("protocol", manifest["protocol"]),
        *_block("counts", manifest["counts"]),
        *_lengths(dataset),
        *_splits(dataset),
        *_first_user(dataset),
    ]
    return "\n".join(lines)


def _block(name: str, values: Mapping[str, object]) -> list[str]:
    return [name, *(f"  {key:<24} {_number(value)}" for key, value in values.items())]


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _lengths(dataset: Dataset) -> list[str]:
    lengths = np.diff(dataset.offsets)
    middle, high = np.percentile(lengths, [50, 99])
    figures = f"mean {lengths.mean():.2f}, median {middle:.0f}, p99 {high:.0f}, max {lengths.max()}"
    return [f"sequence   {figures}"]


def _splits(dataset: Dataset) -> list[str]:
    lines = ["split        interactions   reviews   explanations"]
    pairs = dataset.interactions["split"].to_numpy()
    reviews = dataset.reviews["split"].to_numpy()
    explained = reviews[np.asarray(dataset.reviews["sentence"].is_valid())]
    for index, split in enumerate(SPLITS):
        counts = [(column == index).sum() for column in (pairs, reviews, explained)]
        lines.append(f"  {split:<10} {counts[0]:>12,} {counts[1]:>9,} {counts[2]:>14,}")
    return lines


def _first_user(dataset: Dataset) -> list[str]:
    lines = [f"user_1     {dataset.user_keys[0]} ({dataset.user_names[0]})"]
    for item in dataset.sequence(0)[-3:]:
        title = dataset.titles[item] or "unknown title"
        lines.append(
            f"  item {dataset.item_ids[item]}  {dataset.item_keys[item]}  {title}"[:_WIDTH]
        )
    reviews = dataset.reviews
    if reviews.num_rows:
        row = reviews.slice(0, 1).to_pylist()[0]
        lines += [
            f"  {name:<9} {str(row[name])[:_WIDTH]}"
            for name in ("headline", "text", "feature", "sentence")
        ]
    return lines
