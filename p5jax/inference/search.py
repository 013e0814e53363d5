"""One jitted search of an id trie, level by level, that knows what it may have missed.

At each level the most probable nodes are entered, all in one call of the decoder; a node's keys
and values are kept once and looked up by those below it. Items whose last branching has been passed
wait in a pool under an upper bound; at the end the pool's tails are scored. Since log-probabilities
only fall, the most probable of all that was dropped on the way bounds every item below it.

Letters: B users, S source length, I items, R rows (nodes or pooled items of a user), W edges of a
node, L tokens a row is entered by, A tokens before them, P kept tokens, N tokens that an answer
begins with, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from p5jax.inference.allowed import Allowed
from p5jax.inference.rows import Decoder, begin, decode_rows, in_parts, keep, log_likelihood
from p5jax.inference.steps import read_source
from p5jax.inference.trie import Level, Trie
from p5jax.models.initial import Params
from p5jax.models.t5 import Transformer


class Width(NamedTuple):
    """How much a search keeps: nodes of a level, and items whose tails are scored.

    textbook: an item joins only if it is among the best `nodes` of a level's nodes and items, as
    in a beam search; without it no item has to beat a node.
    floats: how many logits are made at a time at most (128 MiB).
    """

    nodes: int
    items: int
    textbook: bool = False
    floats: int = 1 << 25


class Found(NamedTuple):
    """The k best pooled items [B, k] (-1: none), their log-probabilities [B, k], and a bound [B].

    No item outside the pool has a log-probability above the bound.
    """

    items: jax.Array | np.ndarray
    logp: jax.Array | np.ndarray
    bound: jax.Array | np.ndarray


class Entered(NamedTuple):
    """The nodes of a level that were entered [B, R], and the log-probabilities of their prefixes,
    less their last tokens' if several: [B, R], -inf where there was no further node to enter."""

    node: jax.Array | np.ndarray
    logp: jax.Array | np.ndarray


class Searched(NamedTuple):
    """What a search found, and what it entered on the way, level by level from the root."""

    found: Found
    entered: tuple[Entered, ...]


class _Rows(NamedTuple):
    """Nodes [B, R] with the log-probability of their prefix, less their last tokens' if several."""

    node: jax.Array
    logp: jax.Array
    past: jax.Array  # [B, R, A]: positions of the prefix's tokens among the kept ones


class _Pool(NamedTuple):
    """Items [B, R] under upper bounds, with their parents' tokens, the newest last, -1 before."""

    item: jax.Array
    logp: jax.Array
    past: jax.Array


class _Edges(NamedTuple):
    """What edges lead to, all [B, N]: an item or -1, a node or -1, and the log-probability.

    -inf where nothing is allowed.
    """

    item: jax.Array
    node: jax.Array
    logp: jax.Array


@partial(jax.jit, static_argnames=("model", "k", "width", "likelihood"))
def search_trie(
    model: Transformer,
    params: Params,
    tokens: jax.Array,
    given: jax.Array,
    trie: Trie,
    allowed: Allowed,
    k: int,
    width: Width,
    likelihood: str = "vocabulary",
) -> Searched:
    """Search the trie for each source and each beginning of an answer.

    tokens [B, S]; given [B, N]: what the decoder reads before an id, the start token first,
    padded with -1 at its beginning; allowed: the items to find.
    """
    source = read_source(model, params, tokens)
    decoder = Decoder(model, params, source, likelihood, width.floats)
    users, before = tokens.shape[0], given.shape[1] - 1  # the last one enters the root
    deepest = before + sum(level.length for level in trie.levels)
    trie = jax.tree.map(jnp.asarray, trie)
    kept, past = begin(decoder, given[:, :-1])
    rows = _Rows(jnp.zeros((users, 1), jnp.int32), jnp.zeros((users, 1)), past)
    pool = _Pool(
        jnp.zeros((users, 0), jnp.int32),
        jnp.zeros((users, 0)),
        jnp.zeros((users, 0, deepest), jnp.int32),
    )
    bound, first = jnp.full(users, -jnp.inf), cast("jax.Array | None", given[:, -1])
    entered: list[Entered] = []
    for level, next_level in zip(trie.levels, (*trie.levels[1:], None), strict=True):
        entered.append(Entered(rows.node, rows.logp))
        logp, grown = _enter(decoder, trie, level, kept, rows, first)
        first = None
        kept, past = keep(kept, grown, rows.past, level.length)
        edges = _edges(trie, level, allowed, rows.node, logp)
        pool, lost = _join(width, pool, edges, past)
        bound = jnp.maximum(bound, lost)
        if next_level:
            rows, lost = _descend(min(width.nodes, next_level.nodes), edges, past)
            bound = jnp.maximum(bound, lost)
    pool = _score_tails(decoder, trie, kept, pool)
    items, logp = _best(pool, min(k, pool.item.shape[1]))
    return Searched(Found(items, logp, bound), tuple(entered))


def _enter(
    decoder: Decoder, trie: Trie, level: Level, kept: Any, rows: _Rows, first: jax.Array | None
) -> tuple[jax.Array, Any]:
    """Feed the rows' tokens: log-probabilities of their edges [B, R, W], and keys and values.

    first [B]: the root's first token is each user's own.
    """
    tokens = trie.node_tokens[rows.node][:, :, : level.length]  # [B, R, L]
    if first is not None:
        tokens = tokens.at[:, :, 0].set(first[:, None])

    def enter(part: tuple[jax.Array, ...]) -> tuple[jax.Array, Any]:
        node, logp, past, fed = part  # [B, r], [B, r], [B, r, A], [B, r, L]
        logits, grown = decode_rows(decoder, kept, past, fed)
        edge, real = _edges_of(trie, level, node)
        own = jnp.take_along_axis(logits[:, :, -1], trie.edge_token[edge], axis=2)
        if decoder.likelihood == "children":
            total = jax.nn.logsumexp(own, axis=2, keepdims=True, where=real)
        else:
            total = jax.nn.logsumexp(logits[:, :, -1], axis=2, keepdims=True)
            logp = logp + log_likelihood(logits[:, :, :-1], fed[:, :, 1:])
        # Rounding must not lift a prefix above the one it continues.
        return logp[:, :, None] + jnp.minimum(own - total, 0.0), grown

    size = rows.node.shape[0] * level.length * decoder.model.config.vocab_size
    arrays = (rows.node, rows.logp, rows.past, tokens)
    entered: tuple[jax.Array, Any] = in_parts(enter, arrays, size, decoder.floats)
    return entered


def _edges_of(trie: Trie, level: Level, node: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The edges of nodes [B, R] and which of them are real (a node may have fewer): [B, R, W]."""
    edge = trie.edge_start[node][:, :, None] + jnp.arange(level.width)
    real = edge < trie.edge_start[node + 1][:, :, None]
    return jnp.where(real, edge, 0), real


def _edges(trie: Trie, level: Level, allowed: Allowed, node: jax.Array, logp: jax.Array) -> _Edges:
    """Where the edges of nodes [B, R] with log-probabilities [B, R, W] lead to."""
    users = node.shape[0]
    edge, real = _edges_of(trie, level, node)
    child = trie.edge_child[edge].reshape(users, -1)  # [B, R, W] -> [B, R*W]
    item, below = jnp.where(child < 0, -1 - child, -1), jnp.where(child < 0, -1, child)
    rank = trie.item_rank[item]
    first = jnp.where(child < 0, rank, trie.node_first[below])
    last = jnp.where(child < 0, rank + 1, trie.node_last[below])
    alive = real.reshape(users, -1) & (allowed.between(first, last) > 0)
    return _Edges(item, below, jnp.where(alive, logp.reshape(users, -1), -jnp.inf))


def _join(width: Width, pool: _Pool, edges: _Edges, past: jax.Array) -> tuple[_Pool, jax.Array]:
    """The pool with the items that edges lead to, and the best log-probability [B] it dropped.

    past [B, R, A]: the tokens of the nodes that the edges leave.
    """
    held, branching = pool.item.shape[1], edges.logp.shape[1] // past.shape[1]
    new = jnp.where(edges.item >= 0, edges.logp, -jnp.inf)
    dropped = jnp.full(new.shape[0], -jnp.inf)
    if width.textbook:
        best, _, dropped = _top(edges.logp, width.nodes)
        new = jnp.where(new >= best[:, -1:], new, -jnp.inf)
    logp, chosen, lost = _top(jnp.concatenate([pool.logp, new], axis=1), width.items)
    item = _take(jnp.concatenate([pool.item, edges.item], axis=1), chosen)
    before = pool.past.shape[2] - past.shape[2]
    past = jnp.pad(past, ((0, 0), (0, 0), (before, 0)), constant_values=-1)
    source = jnp.where(chosen < held, chosen, held + (chosen - held) // branching)
    past = _take(jnp.concatenate([pool.past, past], axis=1), source)
    return _Pool(item, logp, past), jnp.maximum(dropped, lost)


def _descend(count: int, edges: _Edges, past: jax.Array) -> tuple[_Rows, jax.Array]:
    """The `count` best nodes that edges lead to, and the best log-probability [B] of the others."""
    branching = edges.logp.shape[1] // past.shape[1]
    logp, chosen, lost = _top(jnp.where(edges.node >= 0, edges.logp, -jnp.inf), count)
    node = jnp.maximum(_take(edges.node, chosen), 0)  # where there are too few: of -inf
    return _Rows(node, logp, _take(past, chosen // branching)), lost


def _top(logp: jax.Array, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The best `count` of [B, N], their positions, and the best [B] of the others (-inf: none)."""
    total = logp.shape[1]
    # Without barriers XLA merges the cuts below into a sort of the whole: 60 times the work. One
    # around both arrays would make it fail where processes share a model.
    found = lax.top_k(logp, min(count + 1, total))
    best, chosen = (lax.optimization_barrier(each) for each in found)
    if total <= count:
        return best, chosen, jnp.full(logp.shape[0], -jnp.inf)
    return best[:, :count], chosen[:, :count], best[:, count]


def _take(array: jax.Array, index: jax.Array) -> jax.Array:
    """[B, N, ...] and [B, R] -> [B, R, ...]."""
    return jnp.take_along_axis(array, index.reshape(*index.shape, *[1] * (array.ndim - 2)), axis=1)


def _score_tails(decoder: Decoder, trie: Trie, kept: Any, pool: _Pool) -> _Pool:
    """Turn the pool's upper bounds into log-probabilities: the tails' tokens after their first."""
    if trie.tail.shape[1] == 1 or decoder.likelihood == "children":  # nothing is left to choose
        return pool
    tail = trie.tail[pool.item]  # [B, R, T]

    def score(part: tuple[jax.Array, ...]) -> jax.Array:
        past, tokens = part
        logits, _ = decode_rows(decoder, kept, past, tokens[:, :, :-1])
        return log_likelihood(logits, tokens[:, :, 1:])

    size = tail.shape[0] * (tail.shape[2] - 1) * decoder.model.config.vocab_size
    return pool._replace(logp=pool.logp + in_parts(score, (pool.past, tail), size, decoder.floats))


def _best(pool: _Pool, k: int) -> tuple[jax.Array, jax.Array]:
    """The k best items of the pool; of equals the one that comes first in the catalogue."""
    _, item, logp = lax.sort((-pool.logp, pool.item, pool.logp), dimension=1, num_keys=2)
    item = jnp.where(jnp.isfinite(logp), item, -1)
    return item[:, :k], logp[:, :k]
