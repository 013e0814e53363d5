"""What is fitted on a prepared dataset, and the prompts that train: the same whatever is held out.

Each entry of FITTED makes from a dataset what a run, a baseline or a metric learns of it. The audit
makes it twice, the second time beside other held-out rows, and compares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from p5jax.data.dataset import Dataset
from p5jax.data.item_vectors import item_texts, item_vectors
from p5jax.data.refitting import refitted_explanations
from p5jax.evaluation.baselines.reviews import Reviews
from p5jax.memory.histories import neighbours, ratings_of, training_counts, training_matrix
from p5jax.memory.memory import Memory
from p5jax.memory.neighbours import pairs
from p5jax.memory.stored_pairs import stored_pairs
from p5jax.prompts.families import FamilyConfig, example_rng, make_families
from p5jax.prompts.template_files import load_templates, own_templates
from p5jax.text.corpus import corpus

PROMPTS = 100  # of each family
REVIEWS = 20_000  # whose texts are compared, at most
NEAR = 3  # the distance up to which neighbours are counted
Fit = Callable[[Dataset], Iterable[Any]]


class _Words:
    """Counts words, for prompts that are compared and never cut."""

    def encode(self, text: str) -> list[int]:
        return [0] * len(text.split())


def _prompts(dataset: Dataset) -> Iterator[Any]:
    config = FamilyConfig(max_source=1 << 30, hard_negatives=0.5)
    templates = load_templates("amazon") | own_templates()
    made = make_families(dataset, templates, _Words(), config)
    for name, family in made.items():
        size = family.size("train")
        yield name, size
        for index in np.unique(np.linspace(0, size - 1, PROMPTS).astype(int)).tolist():
            example = family.example("train", index, example_rng(0, 0, name, index))
            yield example.prompt_id, example.inputs, example.targets


def _neighbours(dataset: Dataset) -> Iterator[Any]:
    near = neighbours(dataset, NEAR, lambda distance: (1 / distance, 1 / distance))
    near.sort_indices()
    yield from (near.indptr, near.indices, np.round(near.data, 6))


def _memory(dataset: Dataset) -> Iterator[Any]:
    memory = Memory.of(dataset)
    yield memory.counts
    for near in (memory.sums, memory.texts):
        if near is not None:
            near.sort_indices()
            yield from (near.indptr, near.indices, np.round(near.data, 6))


def _baselines(dataset: Dataset) -> Iterator[Any]:
    """What all are made from, but for the settings that validation chooses."""
    yield from (training_counts(dataset), *ratings_of(dataset, "train"))
    matrix = training_matrix(dataset)
    yield from (matrix.indptr, matrix.indices)
    said = Reviews.of(dataset, "train").spread(REVIEWS)
    for column in ("text", "headline", "feature", "sentence"):
        yield said.texts(column)


FITTED: Mapping[str, Fit] = {
    "training prompts": _prompts,
    "vocabulary": lambda dataset: corpus(dataset, ()),
    "neighbours of items": _neighbours,
    "item vectors": lambda dataset: [
        item_vectors(dataset.training_sequences, item_texts(dataset.items))
    ],
    "memory": _memory,
    "baselines": _baselines,
}


def find_fitted_leaks(
    dataset: Dataset, other: Dataset, fitted: Mapping[str, Fit] = FITTED
) -> list[str]:
    """Return a line for each fitted thing that is another one beside the held-out rows of `other`,
    a dataset of the same training rows."""
    lines = refitted_explanations(dataset, other) + _recounted_pairs(dataset, other)
    for name, made in fitted.items():
        if _fingerprint(made(dataset)) != _fingerprint(made(other)):
            lines.append(f"{name}: other held-out rows give others, so held-out rows are read")
    return lines


def _recounted_pairs(dataset: Dataset, other: Dataset) -> list[str]:
    """Count the pairs that are stored again, beside the held-out rows of `other`."""
    stored = stored_pairs(dataset)
    differing = 0 if stored is None else (stored != pairs(other)).nnz
    if not differing:
        return []
    return [
        f"stored pairs: {differing} differ from those of training rows; delete"
        f" {dataset.path / 'pairs'} and count them again"
    ]


def _fingerprint(values: Iterable[Any]) -> str:
    found = hashlib.sha256()
    for value in values:
        found.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return found.hexdigest()
