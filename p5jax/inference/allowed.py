"""Which items each user may be recommended, at the cost of the items named, not of the catalogue.

Letters: B users, E excluded items, C candidates, N items named, Q intervals of ranks, I items.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from p5jax.inference.trie import Trie

_LEAST = 64  # of a row's items; above it, this times a power of 4


class Allowed(NamedTuple):
    """Items by their ranks in a trie: the only ones allowed, or the only ones that are not.

    ranks [B, N] int32: ascending, each once, then I for what is missing; listed [] bool: whether
    these are the allowed ones.
    """

    ranks: jax.Array
    listed: jax.Array

    def between(self, first: jax.Array, last: jax.Array) -> jax.Array:
        """How many allowed items have ranks in first:last, both [B, Q]: [B, Q] int32."""
        ends = _places(self.ranks, jnp.concatenate([first, last], axis=1))
        before, after = jnp.split(ends, 2, axis=1)
        named = after - before
        return jnp.where(self.listed, named, last - first - named)


def few_widths(items: np.ndarray) -> np.ndarray:
    """Items [B, N] padded with -1 to one of few widths, since a search of each is compiled."""
    width = _LEAST
    while width < items.shape[1]:
        width *= 4
    padding = (0, 0), (0, width - items.shape[1])
    return np.pad(items, padding, constant_values=-1)


@jax.jit
def allowed_items(trie: Trie, exclude: jax.Array, candidates: jax.Array | None = None) -> Allowed:
    """All items but `exclude` [B, E], or of `candidates` [B, C] those that are not in it.

    Items are indices, padded with -1; one may be named again.
    """
    total, rank = trie.num_items, jnp.asarray(trie.item_rank)

    def ranks(items: jax.Array) -> jax.Array:
        """Ascending, I for padding and repetitions."""
        found = jnp.sort(jnp.where(items < 0, total, rank[items]), axis=1)
        again = found == jnp.pad(found, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
        return jnp.sort(jnp.where(again, total, found), axis=1)

    gone = ranks(exclude)
    if candidates is None:
        return Allowed(gone, jnp.array(False))
    asked = ranks(candidates)
    place = jnp.minimum(_places(gone, asked), gone.shape[1] - 1)
    left = jnp.where(jnp.take_along_axis(gone, place, axis=1) == asked, total, asked)
    return Allowed(jnp.sort(left, axis=1), jnp.array(True))


def _places(ranks: jax.Array, asked: jax.Array) -> jax.Array:
    """How many of each user's ascending ranks [B, N] are below those asked for [B, Q]: [B, Q]."""
    # Unrolled it is one kernel; as a loop it would be one for each halving.
    search = partial(jnp.searchsorted, method="scan_unrolled")
    return jax.vmap(search)(ranks, asked)
