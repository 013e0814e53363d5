"""The flat catalogue trie against a plain set of prefixes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p5jax.errors import UserError
from p5jax.inference.trie import Trie

EOS = 1
ids = st.lists(
    st.lists(st.integers(2, 5), min_size=1, max_size=4).map(lambda tokens: (*tokens, EOS)),
    min_size=1,
    max_size=40,
    unique=True,
)


def paths(trie: Trie) -> dict[tuple[int, ...], int]:
    """Every node by the tokens that lead to it."""
    found, frontier = {(): 0}, [((), 0)]
    while frontier:
        prefix, node = frontier.pop()
        for edge in range(trie.edge_start[node], trie.edge_start[node + 1]):
            child = int(trie.edge_child[edge])
            found[(*prefix, int(trie.edge_token[edge]))] = child
            frontier.append(((*prefix, int(trie.edge_token[edge])), child))
    return found


@given(ids)
def test_nodes_are_the_prefixes_and_leaves_the_items(sequences):
    trie = Trie.build(sequences)
    prefixes = {sequence[:n] for sequence in sequences for n in range(len(sequence) + 1)}
    found = paths(trie)
    assert set(found) == prefixes
    assert sorted(found.values()) == list(range(len(prefixes)))
    assert trie.num_nodes == len(prefixes)
    assert trie.num_items == len(sequences)
    for prefix, node in found.items():
        expected = sequences.index(prefix) if prefix in sequences else -1
        assert trie.node_item[node] == expected


@given(ids)
def test_items_below_a_node_are_one_interval_of_ranks(sequences):
    trie = Trie.build(sequences)
    assert sorted(trie.item_rank) == list(range(len(sequences)))
    for prefix, node in paths(trie).items():
        below = {i for i, s in enumerate(sequences) if s[: len(prefix)] == prefix}
        inside = (trie.item_rank >= trie.node_first[node]) & (trie.item_rank < trie.node_last[node])
        assert set(np.flatnonzero(inside)) == below


@given(ids)
def test_widths_are_the_largest_branchings(sequences):
    trie = Trie.build(sequences)
    children: dict[tuple[int, ...], set[int]] = {}
    for sequence in sequences:
        for n in range(len(sequence)):
            children.setdefault(sequence[:n], set()).add(sequence[n])
    longest = max(len(sequence) for sequence in sequences)
    assert trie.widths == tuple(
        max(len(tokens) for prefix, tokens in children.items() if len(prefix) == depth)
        for depth in range(longest)
    )


@pytest.mark.parametrize(
    ("sequences", "words"),
    [
        ([], "found none"),
        ([[3, EOS], []], "item 1: found an empty id"),
        ([[3, EOS], [4, EOS], [3, EOS]], "items 0 and 2"),
        ([[3, 4, EOS], [3]], "items 0 and 1"),
    ],
)
def test_bad_ids_are_refused(sequences, words):
    with pytest.raises(UserError, match=words):
        Trie.build(sequences)
