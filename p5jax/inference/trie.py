"""The catalogue's tokenised item ids as flat arrays that a jitted search can walk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from p5jax.errors import UserError


@dataclass(frozen=True, eq=False)
class Trie:
    """A prefix tree of item ids, nodes numbered breadth first, node 0 the root.

    Every id ends with the end-of-sequence token, whose edge leads to a leaf, and every leaf is
    one item; so an id that is a token prefix of another is an ordinary path. With N nodes and
    I items:

    - `edge_start` [N+1] int32: the edges of node n are `edge_start[n]:edge_start[n+1]`;
    - `edge_token`, `edge_child` [N-1] int32: an edge's token and the node it leads to;
    - `node_item` [N] int32: the item of a leaf, -1 for an inner node;
    - `node_first`, `node_last` [N] int32: the items below a node have `item_rank` in
      `node_first:node_last`, `item_rank` [I] int32 being the order of the ids' tokens;
    - `widths`: the largest number of edges of a node at depth 0, 1, ...; its length is the
      longest id, end of sequence included.
    """

    edge_start: np.ndarray
    edge_token: np.ndarray
    edge_child: np.ndarray
    node_item: np.ndarray
    node_first: np.ndarray
    node_last: np.ndarray
    item_rank: np.ndarray
    widths: tuple[int, ...]

    @property
    def num_items(self) -> int:
        """The number of items, which is the number of leaves."""
        return int(self.item_rank.shape[0])

    @property
    def num_nodes(self) -> int:
        """The number of nodes, the root and the leaves included."""
        return int(self.node_item.shape[0])

    @staticmethod
    def build(token_sequences: Sequence[Sequence[int]]) -> Trie:
        """Build the trie of `token_sequences`, one id per item, each with its end of sequence.

        Raises UserError when there is no id, an id is empty, two ids have the same tokens, or
        one id is a prefix of another (its end of sequence is missing).
        """
        tokens_IxL, lengths = _padded(token_sequences)
        order = np.lexsort(tokens_IxL.T[::-1])
        tokens_IxL, lengths = tokens_IxL[order], lengths[order]
        _check_distinct(tokens_IxL, lengths, order)

        num_items, longest = tokens_IxL.shape
        path = np.zeros(num_items, np.int64)  # the node of each sorted id at the current depth
        tokens, parents = [np.array([-1])], [np.array([-1])]
        firsts, lasts, items = [np.array([0])], [np.array([num_items])], [np.array([-1])]
        widths, nodes = [], 1
        same = np.ones(num_items, bool)  # shares the prefix of the id before it
        same[0] = False
        for depth in range(longest):
            active = lengths > depth
            same[1:] &= tokens_IxL[1:, depth] == tokens_IxL[:-1, depth]
            rows = np.flatnonzero(active & ~same)  # the first id below each new node
            parents.append(path[rows])
            widths.append(int(np.bincount(path[rows]).max()))
            tokens.append(tokens_IxL[rows, depth])
            # Ids with one prefix are neighbours: a node ends where the next begins or its id does.
            last = np.flatnonzero(active & ~np.append(same[1:] & active[1:], False)) + 1
            firsts.append(rows)
            lasts.append(last)
            items.append(np.where(lengths[rows] == depth + 1, order[rows], -1))
            path = np.where(active, nodes + np.cumsum(active & ~same) - 1, -1)
            nodes += len(rows)

        parent = np.concatenate(parents)[1:]
        counts = np.bincount(parent, minlength=nodes)
        item_rank = np.empty(num_items, np.int32)
        item_rank[order] = np.arange(num_items)
        return Trie(
            edge_start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            edge_token=np.concatenate(tokens)[1:].astype(np.int32),
            # Breadth first in sorted order: the edges in parent order lead to nodes 1, 2, 3, ...
            edge_child=np.arange(1, nodes, dtype=np.int32),
            node_item=np.concatenate(items).astype(np.int32),
            node_first=np.concatenate(firsts).astype(np.int32),
            node_last=np.concatenate(lasts).astype(np.int32),
            item_rank=item_rank,
            widths=tuple(widths),
        )


jax.tree_util.register_dataclass(
    Trie,
    data_fields=[
        "edge_start",
        "edge_token",
        "edge_child",
        "node_item",
        "node_first",
        "node_last",
        "item_rank",
    ],
    meta_fields=["widths"],
)


def _padded(token_sequences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [I, L] padded with -1, and the lengths [I]."""
    if not len(token_sequences):
        raise UserError("item ids: found none, expected at least one item in the catalogue")
    lengths = np.array([len(sequence) for sequence in token_sequences], np.int64)
    if lengths.min() == 0:
        raise UserError(f"item {int(lengths.argmin())}: found an empty id, expected some tokens")
    tokens_IxL = np.full((len(lengths), int(lengths.max())), -1, np.int64)
    tokens_IxL[np.arange(tokens_IxL.shape[1]) < lengths[:, None]] = np.concatenate(
        [np.asarray(sequence, np.int64) for sequence in token_sequences]
    )
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
