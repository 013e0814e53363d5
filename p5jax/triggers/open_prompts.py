"""Examples tokenised once, with open positions for trigger tokens.

Letters: N examples, S source length, T target length, P slots, C candidates, E excluded items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from p5jax.data.dataset import Dataset
from p5jax.pipeline.batching import padded
from p5jax.pipeline.samples import encoded_target
from p5jax.prompts.families import Example
from p5jax.text.vocabulary import Vocabulary
from p5jax.triggers.layout import Layout

_TARGET_MULTIPLE = 8
_WIDTHS = (32, 64, 96, 128, 192, 256, 384, 512)  # few, since each is compiled


@dataclass(frozen=True)
class OpenPrompts:
    """N prompts without their trigger tokens, in the order of their lengths.

    base [N, S]: the arguments' tokens and the end of sequence, 0 in the open positions; positions
    [N, P]: where each slot's token goes; widths [N]: the padded length of each; users, items [N];
    targets [N, T] with the end of sequence, scored [N, T] where they have a loss; given: the texts
    that answers begin with; answers: the texts asked for; candidates [N, C] where the prompt lists
    some; exclude [N, E] padded with -1 where the catalogue is ranked.
    """

    base: np.ndarray
    positions: np.ndarray
    widths: np.ndarray
    users: np.ndarray
    items: np.ndarray
    targets: np.ndarray
    scored: np.ndarray
    given: tuple[str, ...]
    answers: tuple[str, ...]
    candidates: np.ndarray | None
    exclude: np.ndarray | None

    def __len__(self) -> int:
        return len(self.base)

    def filled(self, rows: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """The prompts of `rows` [n] with trigger tokens `slots` [n, P]: int32 [n, width]."""
        tokens = self.base[rows, : self.widths[rows].max()]
        tokens[np.arange(len(rows))[:, None], self.positions[rows]] = slots
        return tokens

    def batches(self, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """Yield batches of one width, [size] indices into `rows`; -1 fills a width's last one."""
        for width in np.unique(self.widths[rows]):
            indices = np.flatnonzero(self.widths[rows] == width)
            for start in range(0, len(indices), size):
                part = indices[start : start + size]
                yield np.pad(part, (0, size - len(part)), constant_values=-1)


def open_prompts(
    examples: Sequence[Example],
    vocabulary: Vocabulary,
    layout: Layout,
    dataset: Dataset,
    max_target: int,
) -> OpenPrompts:
    """Tokenise prompts that hold only their arguments, with the layout's open positions.

    Targets are cut to `max_target` tokens (UserError for a list of items). Where no candidates are
    listed, the items that a user had in training are excluded (but for the target of an example
    from training itself).
    """
    arguments = [vocabulary.encode(example.inputs) for example in examples]
    order = np.argsort([len(tokens) for tokens in arguments], kind="stable")
    examples = [examples[index] for index in order]
    before, after = layout.sides
    rows, positions = [], []
    for index in order:
        tokens = arguments[index]
        rows.append([*[0] * len(before), *tokens, *[0] * len(after), vocabulary.eos_id])
        first = len(before) + len(tokens)
        by_slot = dict(zip(before, range(len(before)), strict=True))
        by_slot |= dict(zip(after, range(first, first + len(after)), strict=True))
        positions.append([by_slot[slot] for slot in range(layout.slots)])
    lengths = np.array([len(row) for row in rows])
    limits = np.array([*_WIDTHS, max(_WIDTHS[-1], int(lengths.max(initial=0)))])
    widths = limits[np.searchsorted(limits, lengths)]
    listed = bool(examples) and examples[0].candidates is not None
    ranked = bool(examples) and examples[0].answer is None and not listed
    targets = [encoded_target(e, vocabulary, max_target) for e in examples]
    longest = max((len(tokens.target) for tokens in targets), default=1)
    longest = -(-longest // _TARGET_MULTIPLE) * _TARGET_MULTIPLE
    return OpenPrompts(
        base=padded(rows, 0, int(widths.max(initial=1))),
        positions=np.array(positions, np.int32).reshape(len(rows), layout.slots),
        widths=widths,
        users=np.array([e.user for e in examples], np.int32),
        items=np.array([e.item for e in examples], np.int32),
        targets=padded([tokens.target for tokens in targets])[:, :longest],
        scored=padded([tokens.weights() > 0 for tokens in targets])[:, :longest] > 0,
        given=tuple(example.given for example in examples),
        answers=tuple(str(e.answer) for e in examples),
        candidates=np.stack([_candidates(e) for e in examples]) if listed else None,
        exclude=_training_items(examples, dataset) if ranked else None,
    )


def _candidates(example: Example) -> np.ndarray:
    assert example.candidates is not None
    return example.candidates


def _training_items(examples: Sequence[Example], dataset: Dataset) -> np.ndarray:
    """The training items of each example's user but its target: [N, E], padded with -1."""
    rows = []
    for example in examples:
        history = dataset.history(example.user, "train")
        rows.append(history[history != example.item])
    longest = int(np.diff(dataset.offsets).max())  # one shape for all
    return padded(rows, -1, longest)
