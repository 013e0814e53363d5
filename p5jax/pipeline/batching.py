"""Tokenised examples to arrays: padding, packing and loss weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from p5jax.core.errors import UserError

Batch = dict[str, np.ndarray]


class Tokens(NamedTuple):
    """One example as int32 arrays, each ending with end-of-sequence: source [s], target [t].

    given: how many target tokens are known beforehand. listed: the items that the others list, 0
    where they are no list. user: whose it is, where batches have users.
    """

    source: np.ndarray
    target: np.ndarray
    given: int = 0
    listed: int = 0
    user: int | None = None

    def weights(self) -> np.ndarray:
        """The loss weights of the target [t] float32: of sum one, so that a loss is the mean over
        an example's tokens, then over examples (P5's). Each item of a list counts as an example;
        neither what is given nor the end of a list has a loss."""
        weights = np.zeros(len(self.target), np.float32)
        if self.listed:
            weights[self.given : -1] = self.listed / (len(self.target) - 1 - self.given)
        else:
            weights[self.given :] = 1.0 / (len(self.target) - self.given)
        return weights


class TokenCount(NamedTuple):
    """What a batch holds: `real` source and target tokens among `padded` positions, examples."""

    real: int
    padded: int
    examples: int


def smallest_fit(length: int, buckets: Sequence[int]) -> int:
    """Return the smallest of the ascending `buckets` that holds `length`, which must fit."""
    return next(bucket for bucket in buckets if bucket >= length)


def padded(rows: Sequence[Sequence[int] | np.ndarray], fill: int = 0, least: int = 1) -> np.ndarray:
    """Return rows as one int32 array [N, L], L the next multiple of 32 (few shapes to compile)."""
    width = -(-max([least, *(len(row) for row in rows)]) // 32) * 32
    array = np.full((len(rows), width), fill, np.int32)
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array


def padded_batch(
    examples: Sequence[Tokens], source_length: int, target_length: int, rows: int
) -> Batch:
    """Put one example in each row; rows past the examples are padding of weight zero.

    Returns encoder_input_tokens [rows, source_length], decoder_{input,target}_tokens and
    decoder_loss_weights [rows, target_length] (see Tokens.weights): sum(weights * nll) /
    sum(weights) is the loss. Examples of known users add "users", int32 [rows], 0 for padding.
    """
    batch = _empty(rows, source_length, target_length)
    for row, tokens in enumerate(examples):
        batch["encoder_input_tokens"][row, : len(tokens.source)] = tokens.source
        _place_target(batch, row, 0, tokens)
        if tokens.user is not None:
            batch.setdefault("users", np.zeros(rows, np.int32))[row] = tokens.user
    return batch


def packed_batch(
    packed: Sequence[Sequence[Tokens]], source_length: int, target_length: int, rows: int
) -> Batch:
    """Put several examples in each row, as segments numbered from one (padding is zero).

    Returns padded_batch's arrays and {encoder,decoder}_{segment_ids,positions} of their shapes;
    positions count from zero within each segment.
    """
    batch = _empty(rows, source_length, target_length)
    for side, length in (("encoder", source_length), ("decoder", target_length)):
        for name in ("segment_ids", "positions"):
            batch[f"{side}_{name}"] = np.zeros((rows, length), np.int32)
    for row, examples in enumerate(packed):
        starts = {"encoder": 0, "decoder": 0}
        for segment, tokens in enumerate(examples, 1):
            start = starts["encoder"]
            batch["encoder_input_tokens"][row, start : start + len(tokens.source)] = tokens.source
            _place_target(batch, row, starts["decoder"], tokens)
            for side, own in (("encoder", tokens.source), ("decoder", tokens.target)):
                span = slice(starts[side], starts[side] + len(own))
                batch[f"{side}_segment_ids"][row, span] = segment
                batch[f"{side}_positions"][row, span] = np.arange(len(own))
                starts[side] = span.stop
    return batch


def first_fit(
    examples: Sequence[Tokens], source_length: int, target_length: int
) -> list[list[int]]:
    """Pack examples into rows by first fit, longest source first; every example is placed.

    Returns the example numbers of each row (Johnson 1973: near 11/9 of the fewest rows at
    worst on one dimension).
    """
    left = np.empty((len(examples), 2), np.int64)
    rows: list[list[int]] = []
    sizes = np.array([(len(tokens.source), len(tokens.target)) for tokens in examples])
    for example in np.argsort(-sizes[:, 0], kind="stable"):
        fits = (left[: len(rows)] >= sizes[example]).all(axis=1)
        row = int(fits.argmax()) if fits.any() else len(rows)
        if row == len(rows):
            rows.append([])
            left[row] = source_length, target_length
        rows[row].append(int(example))
        left[row] -= sizes[example]
    return rows


def process_slice(batch: Batch, index: int, count: int) -> Batch:
    """Return a process's contiguous share of a global batch's rows, which must divide."""
    rows, left = divmod(len(next(iter(batch.values()))), count)
    if left:
        raise UserError(f"found batches of {rows * count + left} rows for {count} processes")
    return {name: array[index * rows : (index + 1) * rows] for name, array in batch.items()}


def token_statistics(batch: Batch) -> TokenCount:
    """Count the source and target tokens of a batch, without and with padding."""
    sides = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    return TokenCount(
        real=sum(int(np.count_nonzero(side)) for side in sides),
        padded=sum(side.size for side in sides),
        examples=_count_examples(batch),
    )


def _count_examples(batch: Batch) -> int:
    if "decoder_segment_ids" in batch:
        return int(batch["decoder_segment_ids"].max(axis=1).sum())
    return int(batch["decoder_loss_weights"].any(axis=1).sum())


def _empty(rows: int, source_length: int, target_length: int) -> Batch:
    return {
        "encoder_input_tokens": np.zeros((rows, source_length), np.int32),
        "decoder_input_tokens": np.zeros((rows, target_length), np.int32),
        "decoder_target_tokens": np.zeros((rows, target_length), np.int32),
        "decoder_loss_weights": np.zeros((rows, target_length), np.float32),
    }


def _place_target(batch: Batch, row: int, start: int, tokens: Tokens) -> None:
    """Write a target, the inputs that predict it (shifted right after a zero), and its weights."""
    target = tokens.target
    stop = start + len(target)
    batch["decoder_target_tokens"][row, start:stop] = target
    batch["decoder_input_tokens"][row, start + 1 : stop] = target[:-1]
    batch["decoder_loss_weights"][row, start:stop] = tokens.weights()
