"""Rows for tokens that the model of a checkpoint does not have."""

from __future__ import annotations

import logging

import numpy as np

from p5jax.core.errors import UserError
from p5jax.models.checkpoints.tensor_names import LOGITS_PATH, TensorPath

log = logging.getLogger(__name__)

EMBEDDING_PATH: TensorPath = ("token_embedder", "embedding")
# The arrays with a row for each token, and the axis of those rows.
VOCABULARY_AXES = {EMBEDDING_PATH: 0, LOGITS_PATH: 1}


def extend_vocabulary(source: object, flat: dict[TensorPath, np.ndarray], vocab_size: int) -> None:
    """Add rows to the embedding (and the logits' kernel) in `flat` until there are `vocab_size`.

    A new row is the mean of the existing ones, so that a new token starts as an average one; a
    log line with `source` says so. UserError when there are more rows than `vocab_size`.
    """
    rows = len(flat[EMBEDDING_PATH])
    if vocab_size == rows:
        return
    if vocab_size < rows:
        raise UserError(f"{source}: vocabulary: found {rows} rows, expected at most {vocab_size}")
    for path, axis in VOCABULARY_AXES.items():
        if path in flat:
            mean = flat[path].mean(axis=axis, keepdims=True)
            new = np.repeat(mean, vocab_size - rows, axis=axis)
            flat[path] = np.concatenate([flat[path], new], axis=axis)
    log.warning(
        "%s: vocabulary extended from %d to %d rows (by their mean)", source, rows, vocab_size
    )
