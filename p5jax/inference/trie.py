"""The catalogue's tokenised item ids as flat arrays that a jitted search can walk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import chain

import jax
import numpy as np

from p5jax.core.errors import UserError
from p5jax.models.t5 import PAD_ID
from p5jax.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Level:
    """What a level's nodes have in common.

    The nodes are `first:first + nodes`; each is entered by `length` tokens and has at most `width`
    edges. The root's tokens count the padding that starts a target.
    """

    first: int
    nodes: int
    length: int
    width: int


@dataclass(frozen=True, eq=False)
class Trie:
    """A prefix tree of item ids in which every node is a prefix that several items share.

    Ids end with the end-of-sequence token, so none is a prefix of another. Nodes are numbered level
    by level, node 0 the root; where all nodes of a level have one edge the next is merged into it,
    and what follows an item's last branching is no node but the item's `tail`: so no step of a
    search is spent on a token without alternatives. With N nodes, E edges and I items:

    - `node_tokens` [N, L] int32: the tokens fed on entering a node, padded with 0 at the end;
    - `edge_start` [N+1] int32: the edges of node n are `edge_start[n]:edge_start[n+1]`;
    - `edge_token` [E] int32: the first token of what the edge leads to, `edge_child` [E] int32:
      a node, or -1 - i for the tail of item i;
    - `tail` [I, T] int32: an item's tokens from its edge to its end, padded with 0;
    - `node_first`, `node_last` [N] int32: the items below a node have `item_rank` in
      `node_first:node_last`, `item_rank` [I] int32 being the order of the ids' tokens;
    - `levels`: what is static about each level.
    """

    node_tokens: np.ndarray
    edge_start: np.ndarray
    edge_token: np.ndarray
    edge_child: np.ndarray
    tail: np.ndarray
    node_first: np.ndarray
    node_last: np.ndarray
    item_rank: np.ndarray
    levels: tuple[Level, ...]

    @property
    def num_items(self) -> int:
        """The number of items."""
        return int(self.item_rank.shape[0])

    @property
    def num_nodes(self) -> int:
        """The number of nodes: the steps that scoring every id takes, but for its tail."""
        return int(self.node_first.shape[0])

    @property
    def widest(self) -> int:
        """The number of nodes of the largest level."""
        return max(level.nodes for level in self.levels)

    @staticmethod
    def build(token_sequences: Sequence[Sequence[int]], collapse: bool = True) -> Trie:
        """Build the trie of `token_sequences`, one id per item, each with its end.

        collapse=False makes every prefix a node and every level one token, the steps of a textbook
        beam search. Raises UserError when there is no id, an id is empty or holds padding, two ids
        have the same tokens, or one id is a prefix of another (its end of sequence is missing).
        """
        tokens_IxL, lengths = _padded(token_sequences)
        order = np.lexsort(tokens_IxL.T[::-1])
        tokens_IxL, lengths = tokens_IxL[order], lengths[order]
        _check_distinct(tokens_IxL, lengths, order)

        num_items, depth = len(order), 0
        node_first, node_last = np.array([0]), np.array([num_items])
        entered = np.array([[PAD_ID]])  # [nodes, length]: the tokens that enter the level's nodes
        tail_start = np.empty(num_items, np.int64)
        levels: list[Level] = []
        parts: list[tuple[np.ndarray, ...]] = []  # of each level: its nodes' and edges' arrays
        numbered = 0
        while len(node_first):
            first, last, parent = _children(tokens_IxL[:, depth], node_first, node_last)
            inner = lengths[first] > depth + 1 if not collapse else last - first > 1
            token = tokens_IxL[first, depth]
            if collapse and inner.all() and len(first) == len(node_first):  # nowhere to choose
                entered = np.concatenate([entered, token[:, None]], axis=1)
                depth += 1
                continue
            numbered += len(node_first)
            counts = np.bincount(parent, minlength=len(node_first))
            levels.append(
                Level(
                    numbered - len(node_first), len(node_first), entered.shape[1], int(counts.max())
                )
            )
            child = np.where(inner, numbered + np.cumsum(inner) - 1, -1 - order[first])
            parts.append((entered, counts, token, child, node_first, node_last))
            tail_start[first[~inner]] = depth
            node_first, node_last, entered = first[inner], last[inner], token[inner][:, None]
            depth += 1

        labels, counts, token, child, node_first, node_last = zip(*parts, strict=True)
        return Trie(
            node_tokens=_stacked(labels),
            edge_start=np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int32),
            edge_token=np.concatenate(token).astype(np.int32),
            edge_child=np.concatenate(child).astype(np.int32),
            tail=_tails(tokens_IxL, lengths, tail_start)[np.argsort(order)],
            node_first=np.concatenate(node_first).astype(np.int32),
            node_last=np.concatenate(node_last).astype(np.int32),
            item_rank=np.argsort(order).astype(np.int32),
            levels=tuple(levels),
        )

    @staticmethod
    def of_texts(
        texts: Iterable[str], vocabulary: Vocabulary, collapse: bool = True, eos: bool = True
    ) -> Trie:
        """Build the trie of texts as the vocabulary writes them, in their order.

        eos: with the end of sequence, without which no text may be a prefix of another.
        """
        end = [vocabulary.eos_id] if eos else []
        return Trie.build([[*vocabulary.encode(t), *end] for t in texts], collapse)


jax.tree_util.register_dataclass(
    Trie,
    data_fields=[field.name for field in fields(Trie) if field.name != "levels"],
    meta_fields=["levels"],
)


def _children(
    tokens: np.ndarray, node_first: np.ndarray, node_last: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split nodes, intervals of sorted ids, by the ids' next tokens [I].

    Returns the children's intervals and their parents' positions among the nodes.
    """
    change = np.zeros(len(tokens) + 1, np.int64)
    change[node_first] += 1
    change[node_last] -= 1  # one node may end where the next begins
    covered = np.cumsum(change)[:-1] > 0
    begins = np.append(True, tokens[1:] != tokens[:-1])
    begins[node_first] = True
    first = np.flatnonzero(begins & covered)
    parent = np.searchsorted(node_first, first, side="right") - 1
    last = np.minimum(np.append(first[1:], len(tokens)), node_last[parent])
    return first, last, parent


def _stacked(labels: Sequence[np.ndarray]) -> np.ndarray:
    """Each level's labels [nodes, length] -> [N, L], padded with 0 at the end."""
    longest = max(label.shape[1] for label in labels)
    wide = [np.pad(label, ((0, 0), (0, longest - label.shape[1]))) for label in labels]
    return np.concatenate(wide).astype(np.int32)


def _tails(tokens_IxL: np.ndarray, lengths: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The tokens of each id from `start` [I] to its end: [I, T] int32, padded with 0."""
    position = start[:, None] + np.arange((lengths - start).max())
    inside = position < lengths[:, None]
    tail = np.take_along_axis(tokens_IxL, np.where(inside, position, 0), axis=1)
    return np.where(inside, tail, PAD_ID).astype(np.int32)


def _padded(token_sequences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [I, L] padded with -1, and the lengths [I]."""
    if not len(token_sequences):
        raise UserError("item ids: found none, expected at least one item in the catalogue")
    lengths = np.array([len(sequence) for sequence in token_sequences], np.int64)
    if lengths.min() == 0:
        raise UserError(f"item {int(lengths.argmin())}: found an empty id, expected some tokens")
    tokens_IxL = np.full((len(lengths), int(lengths.max())), -1, np.int64)
    tokens_IxL[np.arange(tokens_IxL.shape[1]) < lengths[:, None]] = np.fromiter(
        chain.from_iterable(token_sequences), np.int64, int(lengths.sum())
    )
    padding = (tokens_IxL == PAD_ID).any(axis=1)
    if padding.any():
        raise UserError(f"item {int(padding.argmax())}: found the padding token in its id")
    return tokens_IxL, lengths


def _check_distinct(tokens_IxL: np.ndarray, lengths: np.ndarray, order: np.ndarray) -> None:
    """Refuse an id that equals the next in sorted order or is a prefix of it."""
    inside = np.arange(tokens_IxL.shape[1]) < lengths[:-1, None]
    clash = ((tokens_IxL[1:] == tokens_IxL[:-1]) | ~inside).all(axis=1)
    if clash.any():
        row = int(clash.argmax())
        one, two = sorted(order[row : row + 2].tolist())
        found = tokens_IxL[row, : lengths[row]].tolist()
        raise UserError(
            f"items {one} and {two}: found ids that both begin with all of the tokens {found}, "
            "expected distinct ids that end with the end of sequence"
        )
