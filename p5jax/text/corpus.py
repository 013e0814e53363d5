"""The text a dataset's own vocabulary is trained on: training reviews only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow.compute as pc

from p5jax.data.dataset import TRAIN, Dataset
from p5jax.prompts.template import PromptTemplate


def corpus(dataset: Dataset, templates: Iterable[PromptTemplate]) -> Iterator[str]:
    """Yield the texts a model of this dataset reads: prompts, numbers, titles, names and reviews.

    Reviews come from the training split alone; the held-out ones must not shape the pieces.
    """
    yield from training_texts(dataset, ("text", "headline", "sentence", "feature"))
    yield from (brand for brand in dataset.items["brand"].to_pylist() if brand)
    yield from dataset.user_names
    # Prompts are most of what the model reads, and many of them name a user by number alone: the
    # fewer pieces these words have, the sooner a small model learns them.
    wordings = [template.inputs.replace("{", " ").replace("}", " ") for template in templates]
    yield from _as_candidates(wordings) * 50
    yield from _as_candidates([f"user_{user + 1}" for user in range(dataset.num_users)]) * 20
    # Lists of ids: the numbers, and the separators between them as pieces of their own.
    numbers = dataset.item_ids if not dataset.id_tokens else ["0"] * dataset.num_items
    for separator in (" , ", " -> "):
        yield from (f"{separator}{number}{separator}" for number in numbers)
    if not dataset.id_tokens:
        yield from (f"item_{item_id}" for item_id in dataset.item_ids)


def training_texts(
    dataset: Dataset, columns: Sequence[str] = ("text", "headline"), every: int = 1
) -> Iterator[str]:
    """Yield the texts of the training split's reviews, by column, and the titles of items.

    every: how many reviews, and items, there are for each one that is taken.
    """
    reviews = dataset.reviews
    train = reviews.filter(pc.equal(reviews["split"], TRAIN))
    if every > 1:
        train = train.take(np.arange(0, train.num_rows, every))
    for column in columns:
        yield from (text for text in train[column].to_pylist() if text)
    yield from (title for title in dataset.titles[::every] if title)


def _as_candidates(texts: list[str]) -> list[str]:
    """Return texts, and each again with a comma after every word.

    SentencePiece considers only pieces that occur in two different words.
    """
    return texts + [", ".join(text.split()) + "," for text in texts]
