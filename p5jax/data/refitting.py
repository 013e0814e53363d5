"""What preparing a dataset fitted, fitted again beside other held-out rows, and compared.

What a training row says, and the item ids, must be what the dataset folder holds. Stars and item
ids are quick to make again; explanations need the words of all training reviews.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from p5jax.core.errors import UserError
from p5jax.data.dataset import SOURCE_RATING, TRAIN, Dataset
from p5jax.data.explanations import explanation_columns
from p5jax.data.feature_words import EXTRACTED, extract_feature_words, sample
from p5jax.data.item_ids import IdSource, assign_item_ids
from p5jax.data.item_vectors import item_texts
from p5jax.data.ratings import RatingOptions, fit_ratings

EXPLAINED = 20_000  # training reviews whose explanations are made again, at most


def refitted_stars(dataset: Dataset, other: Dataset) -> list[str]:
    """Find the scale and the training stars again beside the held-out rows of `other`."""
    recorded = dataset.manifest["protocol"].get("ratings")
    training = dataset.interactions["split"].to_numpy() == TRAIN
    stars = _numbers(dataset, "rating")[training]
    if recorded is None:
        return _old_stars(dataset, stars)
    source = _numbers(other, SOURCE_RATING)
    again = fit_ratings(source, training, RatingOptions.recorded(recorded))
    if again.entry != recorded:
        return [
            f"stars: made from {_in_words(recorded)}, but training ratings alone give"
            f" {_in_words(again.entry)}"
        ]
    differing = ~np.isclose(again.stars(source)[training], stars, rtol=0, equal_nan=True)
    if not differing.any():
        return []
    row = int(np.flatnonzero(differing)[0])
    return [
        f"stars: {differing.sum()} of {len(stars)} training rows differ from those that training"
        f" ratings alone give, e.g. a rating of {source[training][row]:g} became {stars[row]:g}"
    ]


def _in_words(entry: dict[str, Any]) -> str:
    scale = entry["scale"]
    return f"{scale[0]:g} to {scale[1]:g} ({entry['how']})" if scale else f"none ({entry['how']})"


def _old_stars(dataset: Dataset, stars: np.ndarray) -> list[str]:
    """What an earlier version mapped from the range of all ratings reaches both ends in training,
    or a held-out row decided it."""
    scale = dataset.manifest["protocol"].get("stars_from")
    known = stars[~np.isnan(stars)]
    if not scale or not len(known) or (known.min() <= 1 and known.max() >= 5):
        return []
    return [
        f"stars: mapped from {scale[0]:g} to {scale[1]:g}, which no training row reaches, so"
        " held-out ratings decided; prepare the dataset again"
    ]


def refitted_ids(dataset: Dataset, other: Dataset) -> list[str]:
    """Make the ids again from the training interactions of `other` and the recorded seed."""
    recorded = dataset.manifest["item_ids"]
    if not isinstance(recorded.get("seed"), int):
        return ["item ids: the manifest records no seed, so they cannot be made again"]
    source = IdSource(
        other.training_sequences,
        dataset.num_items,
        recorded["seed"],
        texts=item_texts(dataset.items),
        vectors=dataset.given_vectors,
        levels=recorded.get("levels"),
        codes=recorded.get("codes"),
    )
    try:
        again = assign_item_ids(dataset.id_scheme, source)
    except UserError as error:
        return [f"item ids: cannot be made again ({error})"]
    differing = [item for item, text in enumerate(dataset.item_ids) if text != again[item]]
    if not differing:
        return []
    item = differing[0]
    return [
        f"item ids: {len(differing)} of {dataset.num_items} differ from {dataset.id_scheme} ids "
        f"made from training interactions only, e.g. {dataset.item_keys[item]} is "
        f"{dataset.item_ids[item]!r}, made again {again[item]!r}"
    ]


def refitted_explanations(dataset: Dataset, other: Dataset) -> list[str]:
    """Extract the feature words again beside the held-out reviews of `other`, and compare the
    explanations of training reviews; a list that was given is not fitted."""
    features = dataset.manifest["protocol"].get("features", {})
    if features.get("source") != EXTRACTED:
        return []
    training = other.reviews["split"].to_numpy() == TRAIN
    words = extract_feature_words(sample(other.reviews["text"].filter(pa.array(training))))
    rows = np.flatnonzero(training)
    rows = rows[:: -(-len(rows) // EXPLAINED) or 1]
    kept = dataset.reviews.take(rows)
    feature, sentence = explanation_columns(kept["text"], words)
    columns = (feature, kept["feature"], sentence, kept["sentence"])
    texts = zip(*(column.to_pylist() for column in columns), strict=True)
    differing = sum((a, c) != (b, d) for a, b, c, d in texts)
    if len(words) == features.get("count") and not differing:
        return []
    return [
        f"explanations: {differing} of {len(rows)} training reviews differ from those that the"
        f" {len(words)} feature words of training reviews give (the manifest has"
        f" {features.get('count')} words)"
    ]


def _numbers(dataset: Dataset, column: str) -> np.ndarray:
    """A column of the interactions, float32 [N], NaN where null."""
    numbers: np.ndarray = dataset.interactions[column].to_numpy().astype(np.float32)
    return numbers
