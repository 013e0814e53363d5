"""The mixture of families: an endless, seeded order of examples with random access."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from p5jax.core.errors import UserError, nearest

_RATE_SLOTS = 10_000  # given rates are honoured to 1 in 10,000, exactly so in each such block


class Mixture:
    """A fixed endless order of (family, epoch, index) samples with random access.

    Slots come in blocks. A block gives each family its share of slots (its size, or its rate of
    10,000) in an order permuted by the seed; a family's slots walk through its examples epoch by
    epoch, each epoch in an order of its own.
    """

    def __init__(self, sizes: Mapping[str, int], rates: Mapping[str, float], seed: int):
        self.names = tuple(name for name in sizes if not rates or rates.get(name, 0.0) > 0.0)
        self.sizes = tuple(sizes[name] for name in self.names)
        for name in rates:
            if name not in sizes:
                hint = nearest(name, sizes)
                raise UserError(f"rates: found {name!r}, expected {', '.join(sizes)}{hint}")
        for name, size in zip(self.names, self.sizes, strict=True):
            if size == 0 and rates:
                raise UserError(f"rates: found {name} = {rates[name]}, but it has no examples")
        if not sum(self.sizes):
            which = "the families with a rate above 0" if rates else "any family"
            raise UserError(f"mixture: found no training example in {which}, expected some")
        self.shares = _shares([rates[name] for name in self.names]) if rates else self.sizes
        self.seed = seed
        self._ends = np.cumsum(self.shares)

    def samples(self, start: int, count: int) -> list[tuple[str, int, int]]:
        """Return samples start ... start + count - 1 as (family, epoch, index)."""
        positions = np.arange(start, start + count)
        block, offset = np.divmod(positions, self._ends[-1])
        slot = np.empty_like(offset)
        for number in np.unique(block):
            here = block == number
            slot[here] = permute(
                offset[here], int(self._ends[-1]), self.seed, "mixture", int(number)
            )
        family = np.searchsorted(self._ends, slot, side="right")
        shares, sizes = np.array(self.shares)[family], np.array(self.sizes)[family]
        ordinal = block * shares + slot - (self._ends[family] - shares)
        epoch, index = np.divmod(ordinal, sizes)
        for f, e in {*zip(family.tolist(), epoch.tolist(), strict=True)}:
            here = (family == f) & (epoch == e)
            index[here] = permute(index[here], self.sizes[f], self.seed, self.names[f], e)
        names = [self.names[f] for f in family]
        return list(zip(names, epoch.tolist(), index.tolist(), strict=True))


def permute(positions: np.ndarray, size: int, *key: int | str) -> np.ndarray:
    """Map int64 positions in [0, size) through the permutation of [0, size) that `key` names.

    A Feistel network on the smallest even number of bits, walked until it lands inside (Black and
    Rogaway 2002): random access to a shuffle of any size without holding it.
    """
    half = max(2, ((size - 1).bit_length() + 1) // 2)
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=48).digest()
    round_keys = np.frombuffer(digest, "<u8")
    out = np.asarray(positions).astype(np.uint64)
    todo = np.arange(len(out))
    while len(todo):
        left, right = out[todo] >> shift, out[todo] & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right + round_key) & mask)
        out[todo] = (left << shift) | right
        todo = todo[out[todo] >= size]
    return out.astype(np.int64)


def _mix(values: np.ndarray) -> np.ndarray:
    """Scramble uint64 values (the finaliser of SplitMix64: Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def _shares(rates: Sequence[float]) -> tuple[int, ...]:
    """Split a block's slots by the rates, to the largest remainders; at least one slot each."""
    exact = np.array(rates) / sum(rates) * _RATE_SLOTS
    shares = np.floor(exact).astype(int)
    missing = _RATE_SLOTS - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
    return tuple(np.maximum(shares, 1).tolist())
