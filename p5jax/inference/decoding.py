"""Free text from a T5: greedy, sampled, and by beam search.

All are cached, jitted for a static maximal length and stop as soon as every text has ended.
Letters: B texts, S source length, T maximal length, K beam, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from p5jax.core.errors import UserError
from p5jax.inference.steps import empty_cache, read_source, select_rows, step
from p5jax.models.initial import Params
from p5jax.models.t5 import EOS_ID, PAD_ID, Transformer

State = tuple[Any, ...]  # of a loop: the position first
# Chooses the next tokens [B] from logits [B, V] and the 0-based step.
Choice = Callable[[jax.Array, jax.Array], jax.Array]


def _beginning(given: jax.Array | None) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Return what leaves of logits [B, V] at a step only the token that is given there, if one is.

    given [B, N]: the tokens that each text begins with, padded with -1 at their beginning.
    """
    if given is None:
        return lambda logits, position: logits
    known = (given >= 0).sum(axis=1)

    def begin(logits: jax.Array, position: jax.Array) -> jax.Array:
        # What is given ends its row: a position counts from the row's end.
        from_end = (given.shape[1] - known + position)[:, None]
        token = jnp.take_along_axis(given, from_end, axis=1, mode="clip")
        wanted = (position >= known)[:, None] | (jnp.arange(logits.shape[1]) == token)
        return jnp.where(wanted, logits, -jnp.inf)

    return begin


def _without_repeats(
    logits: jax.Array, texts: jax.Array, position: jax.Array, most: int
) -> jax.Array:
    """Leave out of logits [N, V] what would make texts [N, T] say `most` tokens in a row again.

    position: how many tokens the texts have. 0 leaves all.
    """
    if not most:
        return logits
    starts = jnp.arange(texts.shape[1] - most + 1)
    repeats = (starts + most <= position)[None, :]  # [1, T - most + 1], those that texts have
    for number in range(most - 1):
        newest = jnp.take(texts, position - most + 1 + number, axis=1, mode="clip")
        repeats = repeats & (texts[:, number : number + len(starts)] == newest[:, None])
    barred = jnp.where(repeats, -jnp.inf, jnp.inf)
    return logits.at[jnp.arange(len(texts))[:, None], texts[:, most - 1 :]].min(barred)


def _generate(
    model: Transformer,
    params: Params,
    tokens: jax.Array,
    max_length: int,
    choose: Choice,
    given: jax.Array | None = None,
) -> jax.Array:
    """Decode texts [B, T] from sources [B, S]; each ends with eos (if it ends) and is padded."""
    source = read_source(model, params, tokens)
    texts = tokens.shape[0]
    cache = empty_cache(model, params, source, texts, max_length)
    begin = _beginning(given)

    def going(state: State) -> jax.Array:
        position, _, ended, _, _ = state
        more: jax.Array = (position < max_length) & ~ended.all()
        return more

    def advance(state: State) -> State:
        position, last, ended, cache, output = state
        logits, cache = step(model, params, source, cache, last)
        chosen = choose(begin(logits, position), position)
        chosen = jnp.where(ended, PAD_ID, chosen).astype(jnp.int32)
        output = lax.dynamic_update_slice(output, chosen[:, None], (0, position))
        return position + 1, chosen, ended | (chosen == EOS_ID), cache, output

    start = jnp.full(texts, PAD_ID, jnp.int32)  # T5 starts a target with padding
    output = jnp.full((texts, max_length), PAD_ID, jnp.int32)
    state = (jnp.int32(0), start, jnp.zeros(texts, bool), cache, output)
    decoded: jax.Array = lax.while_loop(going, advance, state)[-1]
    return decoded


@partial(jax.jit, static_argnames=("model", "max_length"))
def greedy(
    model: Transformer,
    params: Params,
    tokens: jax.Array,
    max_length: int,
    given: jax.Array | None = None,
) -> jax.Array:
    """The most probable token at each step: sources [B, S] -> texts [B, T] int32.

    A text ends with end-of-sequence, unless it reached T = `max_length`, and is padded with 0.
    given [B, N]: the tokens that each text begins with, padded with -1 at their beginning.
    """

    def choose(logits: jax.Array, position: jax.Array) -> jax.Array:
        return logits.argmax(axis=-1)

    return _generate(model, params, tokens, max_length, choose, given)


def sample(
    model: Transformer,
    params: Params,
    tokens: jax.Array,
    max_length: int,
    key: jax.Array,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> jax.Array:
    """Texts [B, T] sampled token by token from the tempered distribution's nucleus.

    `top_p` keeps the smallest set of most probable tokens with at least this probability (Holtzman
    et al. 2020). UserError unless temperature > 0 and 0 < top_p <= 1.
    """
    if not temperature > 0:
        raise UserError(f"temperature: found {temperature}, expected a number above 0")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p: found {top_p}, expected a number above 0 and at most 1")
    texts: jax.Array = _sample(model, params, tokens, max_length, key, temperature, top_p)
    return texts


def nucleus(logits: jax.Array, top_p: jax.Array | float) -> jax.Array:
    """Logits [B, V] with -inf outside the smallest set of tokens that has probability `top_p`."""
    order = jnp.argsort(-logits, axis=-1)
    sorted_p = jnp.take_along_axis(jax.nn.softmax(logits, axis=-1), order, axis=-1)
    before = jnp.cumsum(sorted_p, axis=-1) - sorted_p  # probability of the strictly better tokens
    rank = jnp.argsort(order, axis=-1)
    kept = jnp.take_along_axis(before < top_p, rank, axis=-1)
    return jnp.where(kept, logits, -jnp.inf)


@partial(jax.jit, static_argnames=("model", "max_length"))
def _sample(
    model: Transformer,
    params: Params,
    tokens: jax.Array,
    max_length: int,
    key: jax.Array,
    temperature: jax.Array | float,
    top_p: jax.Array | float,
) -> jax.Array:
    def choose(logits: jax.Array, position: jax.Array) -> jax.Array:
        kept = nucleus(logits / temperature, top_p)
        return jax.random.categorical(jax.random.fold_in(key, position), kept)

    return _generate(model, params, tokens, max_length, choose)


@partial(jax.jit, static_argnames=("model", "max_length", "beam", "no_repeat"))
def beam_search(
    model: Transformer,
    params: Params,
    tokens: jax.Array,
    max_length: int,
    beam: int = 4,
    alpha: float = 1.0,
    given: jax.Array | None = None,
    no_repeat: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """The best texts by beam search: sources [B, S] -> texts [B, K, T] int32, scores [B, K].

    A score is the log-probability divided by length**alpha (the length counts end-of-sequence);
    best first. The search of a text ends when no open beam can beat the worst of K finished ones.
    given: as for `greedy`; its tokens have probability 1 and no length. no_repeat: how many tokens
    in a row no text says twice, 0 for any.
    """
    begin = _beginning(None if given is None else jnp.repeat(given, beam, axis=0))
    known = jnp.zeros(1) if given is None else (given >= 0).sum(axis=1)  # [1|B]
    source = read_source(model, params, tokens)
    texts = tokens.shape[0]
    cache = empty_cache(model, params, source, texts * beam, max_length)

    def going(state: State) -> jax.Array:
        position, _, open_logp, _, _, ended_score = state
        # Log-probabilities only fall, and dividing by the greatest length favours them most.
        bound = open_logp.max(axis=-1) / (max_length - known) ** alpha
        more: jax.Array = (position < max_length) & (bound > ended_score.min(axis=-1)).any()
        return more

    def advance(state: State) -> State:
        position, open_BxKxT, open_logp, cache, ended_BxKxT, ended_score = state
        last = jnp.where(position == 0, PAD_ID, open_BxKxT[:, :, position - 1])
        logits, cache = step(model, params, source, cache, last.reshape(-1))  # [B*K, V]
        logp = jax.nn.log_softmax(begin(logits, position))
        # [B, K, T] -> [B*K, T]
        logp = _without_repeats(logp, open_BxKxT.reshape(-1, max_length), position, no_repeat)
        logp = logp.reshape(texts, beam, -1) + open_logp[:, :, None]
        # [B, K, V] -> [B, K*V]; of 2K candidates at least K are not the end of a text
        best, index = lax.top_k(logp.reshape(texts, -1), 2 * beam)
        parent, token = index // logits.shape[-1], index % logits.shape[-1]
        grown = jnp.take_along_axis(open_BxKxT, parent[:, :, None], axis=1)
        grown = grown.at[:, :, position].set(token.astype(jnp.int32))
        ends = (token == EOS_ID) | (position == max_length - 1)
        score = best / jnp.maximum(position + 1.0 - known, 1.0)[:, None] ** alpha
        score = jnp.where(ends & (jnp.arange(2 * beam) < beam), score, -jnp.inf)
        ended_score, chosen = lax.top_k(jnp.concatenate([ended_score, score], axis=1), beam)
        pool = jnp.concatenate([ended_BxKxT, grown], axis=1)
        ended_BxKxT = jnp.take_along_axis(pool, chosen[:, :, None], axis=1)
        open_logp, chosen = lax.top_k(jnp.where(ends, -jnp.inf, best), beam)
        open_BxKxT = jnp.take_along_axis(grown, chosen[:, :, None], axis=1)
        cache = select_rows(cache, jnp.take_along_axis(parent, chosen, axis=1))
        return position + 1, open_BxKxT, open_logp, cache, ended_BxKxT, ended_score

    empty = jnp.full((texts, beam, max_length), PAD_ID, jnp.int32)
    nothing = jnp.full((texts, beam), -jnp.inf)
    # All beams start alike: only the first may continue.
    state = (jnp.int32(0), empty, nothing.at[:, 0].set(0.0), cache, empty, nothing)
    ended: tuple[jax.Array, jax.Array] = lax.while_loop(going, advance, state)[-2:]
    return ended
