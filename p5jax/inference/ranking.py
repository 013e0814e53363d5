"""Items in the order of the probability that a T5 gives their ids.

An item's log-probability is that of its id's tokens and the end of sequence under the model's
full-vocabulary softmax, so it is comparable between items, users and methods.
Letters: B users, S source length, C candidates, E excluded items, I items.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from p5jax.errors import UserError
from p5jax.inference.search import LIKELIHOODS, Found, Width, available_before, search
from p5jax.inference.steps import Params
from p5jax.inference.trie import Trie
from p5jax.models.t5 import Transformer

METHODS = ("certified", "exact", "beam")
# Log-probabilities of one id from programs of different shapes differ by less than this, by the
# dtype of activations.
_ROUNDING = {"float32": 1e-4, "bfloat16": 0.1}
_EXACT_ITEMS = 64  # tails are cheap beside the nodes, and a second search is not
_WIDEN = 4  # a search without a certificate is repeated so many times wider


class Ranking(NamedTuple):
    """The k best items of each user, best first.

    items [B, k] int32, distinct, -1 where nothing was left; logp [B, k] float32 (-inf there);
    exact [B] bool: whether these are provably the model's k best.
    """

    items: np.ndarray
    logp: np.ndarray
    exact: np.ndarray


def rank(
    model: Transformer,
    params: Params,
    encoder_input_tokens: ArrayLike,
    trie: Trie,
    k: int,
    method: str = "certified",
    *,
    beam: int = 64,
    exact: bool = False,
    exclude: ArrayLike | None = None,
    candidates: ArrayLike | None = None,
    likelihood: str = "vocabulary",
) -> Ranking:
    """The k best items for each source [B, S].

    method: `certified` searches the trie with `beam` nodes a level and as many items, and says for
    each user whether the list is certain; with exact=True users without a certificate are searched
    again, wider and wider, until they have one. `exact` enters every node of the trie once and
    scores the tails of the items that can still reach the first k. `beam` is the fixed-width beam
    search of the published systems, for comparison; give it Trie.build(ids, collapse=False).
    exclude [B, E] and candidates [B, C] are items padded with -1; with candidates only these are
    ranked, and a beam of C ranks them all. likelihood: `vocabulary`, the model's own, or
    `children`, renormalised at each token over those that continue an id of the catalogue.
    UserError for an unknown method or likelihood, k < 1 or beam < 1.
    """
    _check(k, beam, method, likelihood)
    tokens = jnp.asarray(encoder_input_tokens)
    users = tokens.shape[0]
    nothing = jnp.full((users, 1), -1, jnp.int32)
    available = available_before(
        trie,
        nothing if exclude is None else jnp.asarray(exclude),
        None if candidates is None else jnp.asarray(candidates),
    )
    kept = max(beam, k)
    width = Width(kept, kept, textbook=method == "beam")
    if method == "exact":
        width = Width(trie.widest, max(kept, _EXACT_ITEMS))
    rounding = _ROUNDING[model.config.dtype]
    found = search(model, params, tokens, trie, available, k, width, likelihood)
    ranking = _ranking(found, k, rounding)
    while method != "beam" and (exact or method == "exact") and not ranking.exact.all():
        width = Width(width.nodes * _WIDEN, width.items * _WIDEN)
        rows = np.flatnonzero(~ranking.exact)
        few = max(1, users // 4)  # only two batch sizes: every shape is compiled
        again = np.resize(rows, few if len(rows) <= few else users)
        found = search(model, params, tokens[again], trie, available[again], k, width, likelihood)
        for old, new in zip(ranking, _ranking(found, k, rounding), strict=True):
            old[rows] = new[: len(rows)]
    return ranking


def _check(k: int, beam: int, method: str, likelihood: str) -> None:
    for name, found in (("k", k), ("beam", beam)):
        if found < 1:
            raise UserError(f"{name}: found {found}, expected at least 1")
    if method not in METHODS:
        raise UserError(f"method: found {method!r}, expected {', '.join(METHODS)}")
    if likelihood not in LIKELIHOODS:
        raise UserError(f"likelihood: found {likelihood!r}, expected {', '.join(LIKELIHOODS)}")


def _ranking(found: Found, k: int, rounding: float) -> Ranking:
    items, logp, bound = (np.asarray(part) for part in found)
    missing = ((0, 0), (0, k - items.shape[1]))
    items = np.pad(items, missing, constant_values=-1)
    logp = np.pad(logp, missing, constant_values=-np.inf)
    return Ranking(items, logp, (logp[:, -1] > bound + rounding) | np.isneginf(bound))


def score_all(
    model: Transformer, params: Params, encoder_input_tokens: ArrayLike, trie: Trie
) -> np.ndarray:
    """The log-probability of every item for each source [B, S]: [B, I] float32."""
    ranking = rank(model, params, encoder_input_tokens, trie, trie.num_items, "exact")
    logp = np.empty_like(ranking.logp)
    np.put_along_axis(logp, ranking.items, ranking.logp, axis=1)
    return logp
