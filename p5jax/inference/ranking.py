"""Items in the order of the probability that a T5 gives their ids.

An item's log-probability is that of its id's tokens and the end of sequence under the model's
full-vocabulary softmax, renormalised nowhere, so it is comparable between items, users and methods.
Letters: B users, S source length, K beam, W widest branching, C candidates, L id length, I items.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from p5jax.errors import UserError
from p5jax.inference.steps import (
    Params,
    Source,
    empty_cache,
    read_source,
    select_rows,
    step,
)
from p5jax.inference.trie import Trie
from p5jax.models.t5 import PAD_ID, Transformer

# Logits of candidates are made in chunks of at most this many floats (128 MiB).
_CHUNK_FLOATS = 1 << 25


def rank_catalogue(
    model: Transformer,
    params: Params,
    encoder_input_tokens: ArrayLike,
    trie: Trie,
    k: int,
    beam: int,
    exclude: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The k best items of the catalogue for each source, by beam search over the ids' trie.

    encoder_input_tokens [B, S]; exclude [B, E] item indices padded with -1, or None. Returns items
    [B, k] int32 and their log-probabilities [B, k], best first and distinct. Excluded items and the
    branches that hold nothing else take no place in the beam, so k items come whenever the
    catalogue has that many left; otherwise -1 with -inf fills the rest. A beam as large as the
    catalogue is exact; a beam smaller than k is widened to k. UserError unless k >= 1.
    """
    if k < 1:
        raise UserError(f"k: found {k}, expected at least 1")
    found = min(k, trie.num_items)
    width = min(max(beam, k), trie.num_items)
    tokens = jnp.asarray(encoder_input_tokens)
    if exclude is None:
        exclude = jnp.full((tokens.shape[0], 1), -1, jnp.int32)
    items, logp = _search(model, params, tokens, trie, jnp.asarray(exclude), found, width)
    missing = ((0, 0), (0, k - found))
    items = jnp.pad(items, missing, constant_values=-1)
    return items, jnp.pad(logp, missing, constant_values=-jnp.inf)


@partial(jax.jit, static_argnames=("model", "k", "beam"))
def _search(
    model: Transformer,
    params: Params,
    tokens: jax.Array,
    trie: Trie,
    exclude: jax.Array,
    k: int,
    beam: int,
) -> tuple[jax.Array, jax.Array]:
    source = read_source(model, params, tokens)
    users = tokens.shape[0]
    trie = jax.tree.map(jnp.asarray, trie)
    excluded = _excluded_before(trie, exclude)
    cache = empty_cache(model, params, source, users, len(trie.widths))
    node = jnp.zeros((users, 1), jnp.int32)  # [B, K]: every beam is a node, leaves are finished
    logp = jnp.zeros((users, 1), jnp.float32)
    last = jnp.full((users, 1), PAD_ID, jnp.int32)
    for width in trie.widths:  # unrolled: each level has its own static branching
        logits, cache = step(model, params, source, cache, last.reshape(-1))
        open_logp, edge = _extend(trie, node, logp, logits.reshape(*node.shape, -1), width)
        child = trie.edge_child[edge].reshape(users, -1)  # [B, K, W] -> [B, K*W]
        alive = _alive(trie, excluded, child)
        open_logp = jnp.where(alive, open_logp.reshape(users, -1), -jnp.inf)
        # Finished items compete with the open prefixes, whose log-probability can only fall.
        kept_logp = jnp.where(trie.node_item[node] >= 0, logp, -jnp.inf)
        pool_logp = jnp.concatenate([open_logp, kept_logp], axis=1)
        pool_node = jnp.concatenate([child, node], axis=1)
        pool_token = jnp.concatenate([trie.edge_token[edge].reshape(users, -1), last], axis=1)
        logp, chosen = lax.top_k(pool_logp, min(beam, pool_logp.shape[1]))
        parent = jnp.where(chosen < child.shape[1], chosen // width, chosen - child.shape[1])
        node = jnp.take_along_axis(pool_node, chosen, axis=1)
        last = jnp.take_along_axis(pool_token, chosen, axis=1)
        cache = select_rows(cache, parent)
    items = jnp.where(jnp.isfinite(logp), trie.node_item[node], -1)
    return items[:, :k], logp[:, :k]


def _excluded_before(trie: Trie, exclude: jax.Array) -> jax.Array:
    """How many excluded items have a rank below r: item indices [B, E] -> [B, I+1] int32."""
    rows = jnp.arange(exclude.shape[0])[:, None]
    # Padding goes to a slot after the last rank, which no interval of ranks contains.
    rank = jnp.where(exclude < 0, trie.num_items, jnp.asarray(trie.item_rank)[exclude])
    marked = jnp.zeros((exclude.shape[0], trie.num_items + 1), jnp.int32).at[rows, rank].set(1)
    return jnp.pad(jnp.cumsum(marked[:, :-1], axis=1), ((0, 0), (1, 0)))


def _alive(trie: Trie, excluded: jax.Array, node: jax.Array) -> jax.Array:
    """Which nodes [B, N] have an item below them that is not excluded: [B, N] bool."""
    first, last = jnp.asarray(trie.node_first)[node], jnp.asarray(trie.node_last)[node]
    before_last = jnp.take_along_axis(excluded, last, axis=1)
    below = before_last - jnp.take_along_axis(excluded, first, axis=1)
    return below < last - first


def _extend(
    trie: Trie, node: jax.Array, logp: jax.Array, logits: jax.Array, width: int
) -> tuple[jax.Array, jax.Array]:
    """Score the edges of nodes [B, K]: log-probabilities and edges, both [B, K, W].

    logits [B, K, V] are those after each node's prefix; a node with fewer edges gives -inf.
    """
    start = jnp.asarray(trie.edge_start)
    edge = start[node][:, :, None] + jnp.arange(width)
    real = edge < start[node + 1][:, :, None]
    edge = jnp.where(real, edge, 0)
    token = jnp.asarray(trie.edge_token)[edge]
    token_logp = jnp.take_along_axis(logits, token, axis=2)
    token_logp -= jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return jnp.where(real, logp[:, :, None] + token_logp, -jnp.inf), edge


@partial(jax.jit, static_argnames=("model",))
def score_candidates(
    model: Transformer, params: Params, tokens: jax.Array, candidate_tokens: jax.Array
) -> jax.Array:
    """Log-probabilities [B, C] of given targets: sources [B, S], targets [B, C, L].

    Targets end with end-of-sequence and are padded with 0; an empty target gives -inf. The source
    is read once for all its candidates.
    """
    source = read_source(model, params, tokens)
    users, count, length = candidate_tokens.shape
    floats = users * length * model.config.vocab_size
    chunk = max(1, min(count, _CHUNK_FLOATS // floats))
    chunks = -(-count // chunk)
    padded = jnp.pad(candidate_tokens, ((0, 0), (0, chunks * chunk - count), (0, 0)))
    # [B, chunks*c, L] -> [chunks, B, c, L]
    parts = padded.reshape(users, chunks, chunk, length).swapaxes(0, 1)
    scored = lax.map(partial(_score, model, params, source), parts)
    # [chunks, B, c] -> [B, chunks*c] -> [B, C]
    return scored.swapaxes(0, 1).reshape(users, -1)[:, :count]


def _score(
    model: Transformer, params: Params, source: Source, candidate_tokens: jax.Array
) -> jax.Array:
    """Log-probabilities [B, C] of targets [B, C, L], teacher-forced."""
    users, count, length = candidate_tokens.shape
    targets = candidate_tokens.reshape(users * count, length)  # rows of one user are successive
    shifted = jnp.pad(targets, ((0, 0), (1, 0)), constant_values=PAD_ID)[:, :-1]
    logits: Any = model.apply(
        {"params": params, "cross": source.cross},
        source.encoded,
        source.tokens,
        shifted,
        targets,
        enable_dropout=False,
        method="decode",
    )
    token_logp = jnp.take_along_axis(logits, targets[:, :, None], axis=2)[:, :, 0]
    token_logp -= jax.nn.logsumexp(logits, axis=-1)
    logp = jnp.where(targets != PAD_ID, token_logp, 0.0).sum(axis=-1)
    logp = jnp.where(targets[:, 0] != PAD_ID, logp, -jnp.inf)
    return logp.reshape(users, count)


def yes_no(
    model: Transformer,
    params: Params,
    tokens: ArrayLike,
    yes_tokens: ArrayLike,
    no_tokens: ArrayLike,
) -> jax.Array:
    """log P(yes) - log P(no) for sources [B, S] -> [B].

    yes_tokens, no_tokens [L]: the two answers with their end-of-sequence, padded with 0 to one
    length; whole answers are scored, so an answer may be several pieces.
    """
    answers = jnp.stack([jnp.asarray(yes_tokens), jnp.asarray(no_tokens)])
    sources = jnp.asarray(tokens)
    pairs = jnp.broadcast_to(answers, (sources.shape[0], *answers.shape))
    logp = score_candidates(model, params, sources, pairs)
    return logp[:, 0] - logp[:, 1]
