"""Random views of item sequences: crop, mask and reorder (CL4SRec, Xie et al. 2022).

Each takes right-aligned histories, int32 [B, S] with 0 as padding, and returns views of that form;
of a history of n items, floor(share * n) are kept by a crop, masked or reordered. These are JAX
functions, for use inside an objective.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from p5jax.core.settings import SHARE, check
from p5jax.models.layers import Array


@dataclass(frozen=True)
class ViewConfig:
    """Shares of a history's items; the defaults are CL4SRec's.

    crop: of the items kept; mask: of those masked; reorder: of those in the shuffled run.
    """

    crop: float = 0.6
    mask: float = 0.3
    reorder: float = 0.6

    def __post_init__(self) -> None:
        check(self, crop=SHARE, mask=SHARE, reorder=SHARE)


def crop(key: Array, items_BxS: Array, share: float) -> Array:
    """Return a random run of each history, of at least one item, moved to the right."""
    size, length = _sizes(items_BxS)
    kept = jnp.maximum(_part(length, share), jnp.minimum(length, 1))
    # How many items after the run are cut off.
    after = _integers(key, length - kept)
    column = jnp.arange(size)
    moved = jnp.take_along_axis(items_BxS, jnp.maximum(column - after, 0), axis=1)
    return jnp.where(column >= size - kept, moved, 0)


def mask(key: Array, items_BxS: Array, share: float, mask_item: int) -> Array:
    """Return the histories with random items replaced by `mask_item`."""
    _, length = _sizes(items_BxS)
    samples = jax.random.uniform(key, items_BxS.shape)
    order = jnp.argsort(jnp.where(items_BxS > 0, samples, 2.0), axis=1)
    rank = jnp.argsort(order, axis=1)
    return jnp.where(rank < _part(length, share), mask_item, items_BxS)


def reorder(key: Array, items_BxS: Array, share: float) -> Array:
    """Return the histories with a random run of each in random order."""
    size, length = _sizes(items_BxS)
    moved = _part(length, share)
    start, order = jax.random.split(key)
    first = size - length + _integers(start, length - moved)
    column = jnp.arange(size)
    inside = (column >= first) & (column < first + moved)
    # Within the run, keys come from its own range, so that it stays between its neighbours.
    samples = first + jax.random.uniform(order, items_BxS.shape) * moved
    keys = jnp.where(inside, jnp.minimum(samples, first + moved - 0.5), column)
    return jnp.take_along_axis(items_BxS, jnp.argsort(keys, axis=1), axis=1)


def random_view(key: Array, items_BxS: Array, config: ViewConfig, mask_item: int) -> Array:
    """Return a view of each history, by one of the three, sampled evenly."""
    which, *keys = jax.random.split(key, 4)
    views = jnp.stack(
        [
            crop(keys[0], items_BxS, config.crop),
            mask(keys[1], items_BxS, config.mask, mask_item),
            reorder(keys[2], items_BxS, config.reorder),
        ]
    )  # [3, B, S]
    chosen = jax.random.randint(which, (1, items_BxS.shape[0], 1), 0, 3)
    return jnp.take_along_axis(views, chosen, axis=0)[0]


def _sizes(items_BxS: Array) -> tuple[int, Array]:
    return items_BxS.shape[1], jnp.sum(items_BxS > 0, axis=1, keepdims=True)


def _part(length: Array, share: float) -> Array:
    # A little above, so that .6 of 5 is 3 in float32 too.
    return jnp.floor(length * share + 1e-4).astype(jnp.int32)


def _integers(key: Array, most: Array) -> Array:
    """Uniform samples of 0 … most, for each row of [B, 1]."""
    return jax.random.randint(key, most.shape, 0, most + 1)
