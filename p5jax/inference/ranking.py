"""Items in the order of the probability that a T5 gives their ids.

An item's log-probability is that of its id's tokens and what ends it under the model's softmax, so
it is comparable between items, users and methods. The softmax is the one of the training: over the
full vocabulary, or over the tokens that continue an id of the catalogue (T5Config.likelihood).
Letters: B users, S source length, N given tokens, C candidates, E excluded items, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.typing import ArrayLike

from p5jax.core.errors import UserError
from p5jax.inference.allowed import allowed_items, few_widths
from p5jax.inference.averaging import averaged, together
from p5jax.inference.mixing import Beside, mixed
from p5jax.inference.search import Found, Searched, Width, search_trie
from p5jax.inference.settings import METHODS, RankingConfig
from p5jax.inference.trie import Trie
from p5jax.models.initial import Params
from p5jax.models.t5 import PAD_ID, Transformer
from p5jax.models.t5_config import LIKELIHOODS
from p5jax.parallel.placing import place_rows, place_whole, to_host
from p5jax.prompts.families import Family
from p5jax.text.vocabulary import Vocabulary

_DEFAULTS = RankingConfig()
# Programs of different shapes round differently: by the dtype of activations, about how much the
# log-probability of one id may differ, in units of 1 + its size (measured on random weights).
_ROUNDING = {"float32": 2e-5, "bfloat16": 0.05}
_GIVEN = (2, 8, 16, 32, 64)  # few widths, since each is compiled
_EXACT_ITEMS = 64  # tails are cheap beside the nodes, and a second search is not
_FLAT_ITEMS = 2  # times k: of ids of one token each, where the tails are all the work
_WIDEN = 4  # a search without a guarantee is repeated this many times wider
Values = TypeVar("Values", jax.Array, np.ndarray)


class Ranking(NamedTuple):
    """The k best items of each user, best first.

    items [B, k] int32, distinct, -1 where nothing was left; logp [B, k] float32 (-inf there);
    exact [B] bool: whether these are guaranteed to be the model's k best, to the rounding of its
    arithmetic.
    """

    items: np.ndarray
    logp: np.ndarray
    exact: np.ndarray


class Asked(NamedTuple):
    """A prompt of each user: its tokens [B, S], the ids it is answered with, and how an answer
    begins [B, N], None where with nothing."""

    tokens: ArrayLike
    trie: Trie
    given: ArrayLike | None = None


def rank(
    model: Transformer,
    params: Params,
    encoder_input_tokens: ArrayLike,
    trie: Trie,
    k: int,
    method: str = _DEFAULTS.method,
    *,
    given: ArrayLike | None = None,
    beam: int = _DEFAULTS.beam,
    exact: bool = _DEFAULTS.exact,
    exclude: ArrayLike | None = None,
    candidates: ArrayLike | None = None,
    likelihood: str | None = None,
    beside: Beside | None = None,
    others: Sequence[Asked] = (),
) -> Ranking:
    """The k best items for each source [B, S].

    method: `certified` searches the trie with `beam` nodes a level and as many items, and says for
    each user whether the list is guaranteed; with exact=True users without that guarantee are
    searched again, wider and wider, until they have it. `exact` enters every node of the trie once
    and scores the tails of the best items, and of more where the list is not guaranteed by then.
    `beam` is the fixed-width beam search of the published systems, for comparison. The trie is the
    one that `id_trie` makes for the method.
    given [B, N]: the tokens that each answer begins with, which the id follows, padded with -1 at
    their beginning. exclude [B, E] and candidates [B, C] are items padded with -1; with candidates
    only these are ranked, and a beam of C ranks them all. likelihood: `vocabulary` or `children`,
    renormalised at each token over those that continue an id of the trie; None: the model's own.
    beside: what the model's probabilities are mixed with; the ranking is then by the mixed scores.
    Its items are scored by the model exactly, and all others are under the search's bound.
    others: further prompts of the same users; an item's probability is then the mean of what all
    prompts give it, exactly for each item that any of their searches finds.
    Parameters on a mesh are searched by all its devices and processes, each of which must call it
    with the same rows. UserError for unknown or contradicting settings, arrays that do not fit, and
    a model whose log-probabilities are not numbers.
    """
    RankingConfig(method, beam, exact)  # refuses what is unknown
    if k < 1:
        raise UserError(f"k: found {k}, expected at least 1")
    if likelihood not in (None, *LIKELIHOODS):
        raise UserError(f"likelihood: found {likelihood!r}, expected {', '.join(LIKELIHOODS)}")
    users = np.shape(encoder_input_tokens)[0]
    prompts = [
        each._replace(tokens=np.asarray(each.tokens), given=begun_rows(each.given, users))
        for each in (Asked(encoder_input_tokens, trie, given), *others)
    ]
    blocked = few_widths(_item_rows("exclude", exclude, users, trie))
    chosen = None if candidates is None else _item_rows("candidates", candidates, users, trie)
    kept = max(beam, k)
    searched = METHODS[method]
    width = Width(kept, kept, textbook=searched.textbook)
    if searched.complete:
        items = _FLAT_ITEMS * k if trie.num_nodes == 1 else max(kept, _EXACT_ITEMS)
        width = Width(max(prompt.trie.widest for prompt in prompts), items)

    def search_one(
        prompt: Asked, rows: np.ndarray, width: Width, asked: np.ndarray | None
    ) -> Found:
        sources, begins, taken = (
            place_rows(params, np.asarray(each)[rows])
            for each in (prompt.tokens, prompt.given, blocked)
        )
        among = None if asked is None else place_rows(params, few_widths(asked))
        found = search_prompt(
            *(model, params, sources, begins, prompt.trie, taken, width), among, likelihood
        )
        found = to_host(found.found)
        return Found(*(np.asarray(leaf)[: len(rows)] for leaf in found))

    def search(rows: np.ndarray, width: Width, asked: np.ndarray | None) -> Found:
        founds = [search_one(prompt, rows, width, asked) for prompt in prompts]
        if len(founds) == 1:
            return founds[0]
        items = together(founds)
        count = items.shape[1]
        scored = [search_one(prompt, rows, Width(count, count), items) for prompt in prompts]
        logps = [_in_order_of(items, *map(np.asarray, each[:2])) for each in scored]
        return averaged(founds, items, logps)

    if beside is not None:
        beside = _allowed(beside, users, trie, chosen)
        count = beside.items.shape[1]
        scored = search(np.arange(users), Width(count, count), beside.items)
        own_logp = _in_order_of(beside.items, *map(np.asarray, scored[:2]))

    def run(rows: np.ndarray, width: Width) -> Ranking:
        found = search(rows, width, None if chosen is None else chosen[rows])
        if beside is not None:
            found = mixed(found, beside.part(rows), own_logp[rows], trie.num_items)
        return ranking_of(found, k, model.config.dtype)

    ranking = run(np.arange(users), width)
    while (exact or searched.complete) and not ranking.exact.all():
        width = Width(width.nodes * _WIDEN, width.items * _WIDEN)
        rows = np.flatnonzero(~ranking.exact)
        few = max(1, users // 4)  # only two batch sizes: every shape is compiled
        wider = run(np.resize(rows, few if len(rows) <= few else users), width)
        for old, new in zip(ranking, wider, strict=True):
            old[rows] = new[: len(rows)]
    return ranking


def search_prompt(
    model: Transformer,
    params: Params,
    tokens: jax.Array,
    begun: jax.Array,
    trie: Trie,
    exclude: jax.Array,
    width: Width,
    candidates: jax.Array | None = None,
    likelihood: str | None = None,
) -> Searched:
    """What one search of a prompt's answers finds: all that `rank` asks of the devices.

    tokens, exclude, candidates, likelihood: as for `rank`; begun [B, N]: what decoders read before
    an id, the start token first, padded with -1 at its beginning.
    """
    allowed = allowed_items(trie, exclude, candidates)
    likelihood = likelihood or model.config.likelihood
    # float32 means float32: accelerators would multiply with fewer bits.
    precision = "highest" if model.config.dtype == "float32" else "default"
    # The whole pool is asked for: so one program serves lists of any length.
    with jax.default_matmul_precision(precision):
        found: Searched = search_trie(
            model, params, tokens, begun, trie, allowed, width.items, width, likelihood
        )
    return found


def id_trie(
    family: Family, prompt_id: str, vocabulary: Vocabulary, method: str, params: Params
) -> Trie:
    """The trie of the item ids as a prompt's answer writes them, for a method.

    A textbook beam takes one token at each step. The trie is beside the parameters, so that
    rankings need not copy it there.
    """
    collapse, source = not METHODS[method].textbook, family.source
    lists = family.lists(prompt_id)
    ids = source.ended_ids if lists else source.dataset.item_ids
    return place_whole(params, Trie.of_texts(ids, vocabulary, collapse, eos=not lists))


def given_rows(texts: Sequence[str], vocabulary: Vocabulary) -> np.ndarray | None:
    """The tokens [B, N] of what each answer begins with, padded with -1; None where none does."""
    if not any(texts):
        return None
    rows = [vocabulary.encode(text) if text else [] for text in texts]
    longest = max(map(len, rows))
    width = next((size for size in _GIVEN if size >= longest), -(-longest // 64) * 64)
    return padded_before(rows, width)


def padded_before(rows: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """Rows of tokens, each at the end of a row of `width`, behind -1: [B, width] int32."""
    padded = np.full((len(rows), width), -1, np.int32)
    for row, tokens in zip(padded, rows, strict=True):
        row[width - len(tokens) :] = tokens
    return padded


def begun_rows(given: ArrayLike | None, users: int) -> np.ndarray:
    """What decoders read before an id [B, 1 + N]: the start token, then what is given."""
    rows = np.zeros((users, 0), np.int32) if given is None else np.asarray(given, np.int32)
    if rows.ndim != 2 or rows.shape[0] != users:
        raise UserError(f"given: found the shape {rows.shape}, expected ({users}, any)")
    begun = np.pad(rows, ((0, 0), (1, 0)), constant_values=-1)
    starts = (begun < 0).sum(axis=1) - 1
    begun[np.arange(users), starts] = PAD_ID
    return begun


def _item_rows(name: str, items: ArrayLike | None, users: int, trie: Trie) -> np.ndarray:
    """Items of each user [B, N], -1 for none."""
    if items is None:
        return np.full((users, 1), -1, np.int32)
    rows = np.asarray(items)
    if rows.ndim != 2 or rows.shape[0] != users:
        raise UserError(f"{name}: found the shape {rows.shape}, expected ({users}, any)")
    if rows.size and not -1 <= rows.min() <= rows.max() < trie.num_items:
        raise UserError(
            f"{name}: found items {rows.min()} to {rows.max()}, expected -1 to {trie.num_items - 1}"
        )
    return rows.astype(np.int32)


def _allowed(beside: Beside, users: int, trie: Trie, chosen: np.ndarray | None) -> Beside:
    """What stands beside the model, of the candidates alone where there are any."""
    items = _item_rows("beside", beside.items, users, trie)
    if chosen is not None:
        items = np.where((items[:, :, None] == chosen[:, None, :]).any(axis=2), items, -1)
    return beside._replace(items=items)


def ranking_of(found: Found, k: int, dtype: str) -> Ranking:
    """What a search found as a ranking [B, k] of a model whose activations are of `dtype`.

    A list is guaranteed where its last item is above what the search may have missed by more than
    the arithmetic's rounding. UserError where log-probabilities are not numbers.
    """
    items, logp, bound = (np.asarray(leaf) for leaf in found)
    if np.isnan(logp).any() or np.isnan(bound).any():
        raise UserError("the model's log-probabilities are not numbers; are its parameters finite?")
    missing = ((0, 0), (0, max(0, k - items.shape[1])))
    items = np.pad(items[:, :k], missing, constant_values=-1)
    logp = np.pad(logp[:, :k], missing, constant_values=-np.inf)
    return Ranking(items, logp, guaranteed(logp[:, -1], bound, dtype))


def guaranteed(last: Values, bound: Values, dtype: str) -> Values:
    """Whether lists whose last item has the log-probability `last` miss no better one.

    bound: no item that a list may miss is above it; of one shape, or broadcast. True where nothing
    can be missing. dtype: of the model's activations, whose rounding counts.
    """
    certain: Values = (last - _ROUNDING[dtype] * (1 + abs(last)) > bound) | (bound == -np.inf)
    return certain


def score_items(
    model: Transformer,
    params: Params,
    encoder_input_tokens: ArrayLike,
    trie: Trie,
    items: ArrayLike,
    given: ArrayLike | None = None,
    beside: Beside | None = None,
    others: Sequence[Asked] = (),
) -> np.ndarray:
    """The log-probability of given items [B, C] for each source [B, S]: [B, C] float32.

    A search as wide as the items are many drops none of them. -inf where an item is -1. beside,
    others: as in `rank`; the scores are then mixed or mean ones.
    """
    asked = np.asarray(items)
    count = asked.shape[1]
    found = rank(
        model,
        params,
        encoder_input_tokens,
        trie,
        count,
        beam=count,
        candidates=asked,
        given=given,
        beside=beside,
        others=others,
    )
    return _in_order_of(asked, found.items, found.logp)


def _in_order_of(asked: np.ndarray, items: np.ndarray, logp: np.ndarray) -> np.ndarray:
    """The log-probabilities of the items asked for [B, M], of found ones [B, N]; -inf if absent."""
    ordered = np.full(asked.shape, -np.inf, np.float32)
    for row, own in enumerate(np.argsort(items, axis=1)):
        position = np.searchsorted(items[row, own], asked[row])
        chosen = own[np.minimum(position, len(own) - 1)]
        there = (items[row, chosen] == asked[row]) & (asked[row] >= 0)
        ordered[row] = np.where(there, logp[row, chosen], -np.inf)
    return ordered


def score_all(
    model: Transformer,
    params: Params,
    encoder_input_tokens: ArrayLike,
    trie: Trie,
    given: ArrayLike | None = None,
) -> np.ndarray:
    """The log-probability of every answer of a trie for each source [B, S]: [B, I] float32.

    It is over the full vocabulary, as words are trained. given: what answers begin with, as for
    `rank`.
    """
    tokens, count = encoder_input_tokens, trie.num_items
    ranking = rank(
        model, params, tokens, trie, count, "exact", given=given, likelihood="vocabulary"
    )
    logp = np.full_like(ranking.logp, -np.inf)
    user, position = np.nonzero(ranking.items >= 0)
    logp[user, ranking.items[user, position]] = ranking.logp[user, position]
    return logp
