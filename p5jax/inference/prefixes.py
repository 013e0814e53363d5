"""The beginnings of item ids at which a search asked the model how they go on.

Letters: S source length, N given tokens, E excluded items, R nodes of a level.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from p5jax.inference.allowed import few_widths
from p5jax.inference.ranking import Asked, begun_rows, search_prompt
from p5jax.inference.search import Width
from p5jax.inference.trie import Trie
from p5jax.models.initial import Params
from p5jax.models.t5 import Transformer
from p5jax.parallel.placing import place_rows, to_host


class Prefix(NamedTuple):
    """A beginning of ids: its tokens, how many items' ids begin so, and a log-probability.

    No item below has a higher one. It is the prefix's own, but that of all the tokens behind its
    last branching only the first one counts.
    """

    tokens: tuple[int, ...]
    items: int
    logp: float


class Step(NamedTuple):
    """A level of a search: how many prefixes there are, and those that were entered, best first."""

    prefixes: int
    entered: list[Prefix]


def search_steps(
    model: Transformer, params: Params, asked: Asked, beam: int, exclude: np.ndarray
) -> list[Step]:
    """Return what a certified search of one prompt enters below the root, level by level.

    asked: of one row; beam: the nodes of a level, as for `inference.ranking.rank`; exclude [1, E].
    No step where every id is one choice.
    """
    if len(asked.trie.levels) == 1:
        return []
    rows = (np.asarray(asked.tokens), begun_rows(asked.given, 1), few_widths(exclude))
    tokens, begun, taken = (place_rows(params, each) for each in rows)
    width = Width(beam, beam)
    searched = search_prompt(model, params, tokens, begun, asked.trie, taken, width)
    trie = to_host(asked.trie)
    parents = _parents(trie)
    steps = []
    for level, entered in zip(trie.levels[1:], to_host(searched.entered[1:]), strict=True):
        best = np.argsort(-entered.logp[0], kind="stable")
        found = [
            Prefix(
                tuple(_tokens(trie, parents, node)),
                int(trie.node_last[node] - trie.node_first[node]),
                float(logp),
            )
            for node, logp in zip(entered.node[0, best], entered.logp[0, best], strict=True)
            if np.isfinite(logp)
        ]
        steps.append(Step(level.nodes, found))
    return steps


def _parents(trie: Trie) -> np.ndarray:
    """The node above each node [N], -1 for the root."""
    parents = np.full(trie.num_nodes, -1)
    edges = np.flatnonzero(trie.edge_child >= 0)
    parents[trie.edge_child[edges]] = np.searchsorted(trie.edge_start, edges, side="right") - 1
    return parents


def _tokens(trie: Trie, parents: np.ndarray, node: int) -> list[int]:
    """The tokens of a node's prefix."""
    above = _tokens(trie, parents, parents[node]) if node > 0 else []
    return above + [token for token in trie.node_tokens[node].tolist() if token > 0]
