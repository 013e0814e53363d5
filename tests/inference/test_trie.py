"""The flat catalogue trie against a plain set of prefixes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p5jax.core.errors import UserError
from p5jax.inference.trie import Trie

EOS = 1
ids = st.lists(
    st.lists(st.integers(2, 5), min_size=1, max_size=4).map(lambda tokens: (9, *tokens, EOS)),
    min_size=1,
    max_size=40,
    unique=True,
)
both = pytest.mark.parametrize("collapse", [True, False])


def edges(trie: Trie, node: int) -> range:
    return range(trie.edge_start[node], trie.edge_start[node + 1])


def walk(trie: Trie) -> tuple[dict[int, tuple[int, ...]], dict[int, tuple[int, ...]]]:
    """The tokens that lead to each node (the start token left out) and to the end of each item."""
    length = {n: v.length for v in trie.levels for n in range(v.first, v.first + v.nodes)}
    label = {n: tuple(trie.node_tokens[n, : length[n]].tolist()) for n in length}
    nodes, items = {0: label[0][1:]}, {}
    for node in range(trie.num_nodes):  # parents come before their children
        for edge in edges(trie, node):
            child = int(trie.edge_child[edge])
            if child < 0:
                tail = trie.tail[-1 - child]
                rest = tuple(tail[tail > 0].tolist())
                items[-1 - child] = nodes[node] + rest
            else:
                rest = label[child]
                nodes[child] = nodes[node] + rest
            assert trie.edge_token[edge] == rest[0]
    return nodes, items


@both
@given(ids)
def test_the_walk_spells_every_id_and_branches_where_they_part(collapse, sequences):
    trie = Trie.build(sequences, collapse)
    nodes, items = walk(trie)
    assert items == dict(enumerate(sequences))
    assert len(nodes) == trie.num_nodes
    for node in nodes:  # a token leads to one place
        tokens = trie.edge_token[trie.edge_start[node] : trie.edge_start[node + 1]]
        assert len(set(tokens.tolist())) == len(tokens) > 0


@given(ids)
def test_no_step_goes_to_tokens_that_are_nobodys_or_one_items(sequences):
    trie = Trie.build(sequences)
    shared = Counter(s[:n] for s in sequences for n in range(len(s)))
    needed = [prefix for prefix, items in shared.items() if items > 1 or not prefix]
    assert sum(level.nodes * level.length for level in trie.levels) == len(needed)
    if len(sequences) > 1:  # a level without a choice is merged into the one above
        assert all(level.width > 1 for level in trie.levels)
        assert trie.levels[0].length >= 2  # all ids begin with 9


@given(ids)
def test_uncollapsed_every_prefix_is_a_node_of_its_length(sequences):
    trie = Trie.build(sequences, collapse=False)
    prefixes = {s[:n] for s in sequences for n in range(len(s))}
    nodes, _ = walk(trie)
    assert sorted(nodes.values()) == sorted(prefixes)
    for depth, level in enumerate(trie.levels):
        inside = range(level.first, level.first + level.nodes)
        assert {len(nodes[node]) for node in inside} == {depth}
        assert level.length == 1


@both
@given(ids)
def test_items_below_a_node_are_one_interval_of_ranks(collapse, sequences):
    trie = Trie.build(sequences, collapse)
    assert sorted(trie.item_rank) == list(range(len(sequences)))
    for node, prefix in walk(trie)[0].items():
        below = {i for i, s in enumerate(sequences) if s[: len(prefix)] == prefix}
        inside = (trie.item_rank >= trie.node_first[node]) & (trie.item_rank < trie.node_last[node])
        assert set(np.flatnonzero(inside)) == below


@both
@given(ids)
def test_levels_say_what_is_static(collapse, sequences):
    trie = Trie.build(sequences, collapse)
    first = 0
    for level in trie.levels:
        assert level.first == first
        counts = [len(edges(trie, n)) for n in range(first, first + level.nodes)]
        assert level.width == max(counts)
        first += level.nodes
    assert first == trie.num_nodes
    assert trie.widest == max(level.nodes for level in trie.levels)


@pytest.mark.parametrize(
    ("sequences", "words"),
    [
        ([], "found none"),
        ([[3, EOS], []], "item 1: found an empty id"),
        ([[3, EOS], [4, 0, EOS]], "item 1: found the padding token"),
        ([[3, EOS], [4, EOS], [3, EOS]], "items 0 and 2"),
        ([[3, 4, EOS], [3]], "items 0 and 1"),
    ],
)
def test_bad_ids_are_refused(sequences, words):
    with pytest.raises(UserError, match=words):
        Trie.build(sequences)
