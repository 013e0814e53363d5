"""What PPR learns of a dataset, for the audit: the same whatever is held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from p5jax.core.errors import UserError
from p5jax.data.dataset import Dataset
from p5jax.evaluation.fitted import Fit
from p5jax.ppr.backbone.sequences import SequenceConfig, SequenceIterator
from p5jax.ppr.profiles import ProfileConfig, fit_profiles

_HISTORY = 20
_BATCHES = 20  # that are compared, at most


def _profiles(dataset: Dataset) -> Iterator[Any]:
    try:
        schema = fit_profiles(dataset, np.arange(dataset.num_users), ProfileConfig())
    except UserError:  # the users have no attributes
        return
    yield schema
    yield schema.profiles(dataset, report=lambda line: None).codes_UxM


def _sequences(dataset: Dataset) -> Iterator[Any]:
    config = SequenceConfig(negatives=1)
    try:
        batches = SequenceIterator(dataset, np.arange(dataset.num_users), config, _HISTORY).epoch(0)
    except UserError:  # nothing follows another, or nothing can be a negative
        return
    for number in range(min(len(batches), _BATCHES)):
        yield from batches[number].values()


FITTED: Mapping[str, Fit] = {
    "profiles and their bins": _profiles,
    "sequences of a backbone": _sequences,
}
