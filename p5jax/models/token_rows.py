"""Rows for tokens that join a vocabulary: the known ones keep every bit."""

from __future__ import annotations

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from p5jax.models.checkpoints.vocabulary_rows import VOCABULARY_AXES
from p5jax.models.initial import Params
from p5jax.text.vocabulary import NUM_SENTINELS, Vocabulary


def token_rows(params: Params) -> np.ndarray:
    """Return what a model has for each token, [V, W]: its embedding and, where they are apart, its
    logits' column beside it."""
    flat = flatten_dict(params)
    parts = [
        np.moveaxis(np.asarray(flat[path], np.float32), axis, 0)
        for path, axis in VOCABULARY_AXES.items()
        if path in flat
    ]
    return np.concatenate(parts, axis=1)


def with_token_rows(
    params: Params, before: Vocabulary, after: Vocabulary, rows: np.ndarray
) -> Params:
    """Return parameters for a vocabulary with more id tokens, [N, W] as token_rows has them.

    The rows of the tokens before, and all other parameters, are the same arrays. A vocabulary is
    padded to full size by rows that stand for no token; those that are added get the mean of the
    sentinels' rows, which training never asks for either.
    """
    flat, column = flatten_dict(params), 0
    for path, axis in VOCABULARY_AXES.items():
        if path not in flat or not len(rows):
            continue
        known = np.moveaxis(np.asarray(flat[path]), axis, 0)
        own = rows[:, column : column + known.shape[1]].astype(known.dtype)
        column += known.shape[1]
        sentinels = known[before.num_pieces : before.num_pieces + NUM_SENTINELS]
        filled = np.repeat(sentinels.mean(axis=0, keepdims=True), after.padded_size, axis=0)
        filled[: len(known)] = known
        filled[before.size : after.size] = own
        flat[path] = np.ascontiguousarray(np.moveaxis(filled, 0, axis))
    return dict(unflatten_dict(flat))
