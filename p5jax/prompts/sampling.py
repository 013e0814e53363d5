"""P5's sampling: random streams, training windows, negatives, candidates and jittered stars."""

from __future__ import annotations

import math
import zlib
from bisect import bisect_right
from collections.abc import Collection, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
_WORD = (1 << 64) - 1

# The normal distribution of each star in training (P5, section 4): mean, standard deviation.
_STARS = {1: (1.2, 0.1), 2: (1.95, 0.225), 3: (2.95, 0.225), 4: (3.95, 0.225), 5: (4.75, 0.125)}


def example_rng(seed: int, epoch: int, family: str, index: int) -> np.random.Generator:
    """Return the random stream of one example.

    Philox is a function of (key, counter), so streams differ by construction and are the same on
    every platform: the key holds seed and family, the counter starts at (index, epoch).
    """
    key = np.array([seed & _WORD, zlib.crc32(family.encode())], np.uint64)
    counter = np.array([0, index, epoch, 0], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def choose(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Return one of `options`, uniformly (cheaper than `Generator.choice`)."""
    return options[int(rng.random() * len(options))]


def coin(rng: np.random.Generator) -> bool:
    """Return True with probability 1/2."""
    return bool(rng.random() < 0.5)


def training_window(length: int, rng: np.random.Generator) -> tuple[int, int]:
    """Return (start, target), 0-based, for a sequence of `length` >= 4 with its two held-out items.

    The target is uniform over the last three training positions, never before the third item; the
    history sequence[start:target] starts at item 1, 2 or 3 and has at least two items (P5's
    sampling). A sequence of four has one training pair: its second item after its first.
    """
    last = length - 2  # 1-based position of the last training item
    target = choose(rng, range(min(max(3, length - 4), last), last + 1))
    start = choose(rng, range(1, max(1, min(3, target - 2)) + 1))
    return start - 1, target - 1


def draw_negatives(
    rng: np.random.Generator, num_items: int, excluded: Collection[int], count: int
) -> list[int]:
    """Return `count` distinct items, uniform over those not in `excluded` (a set, for speed)."""
    if num_items < 4 * (count + len(excluded)):  # rejection would discard most samples
        pool = np.delete(np.arange(num_items), sorted(excluded))
        negatives: list[int] = rng.permutation(pool)[:count].tolist()
        return negatives
    chosen: dict[int, None] = {}
    while len(chosen) < count:
        for item in rng.integers(num_items, size=count - len(chosen) + 8).tolist():
            if item not in excluded:
                chosen[item] = None
    return list(chosen)[:count]


def draw_candidates(
    rng: np.random.Generator,
    num_items: int,
    sequence: np.ndarray,
    positive: int,
    count: int,
    chosen: Sequence[int] = (),
) -> np.ndarray:
    """Return `count` items [count] int32: negatives, `chosen` among them, and `positive` at a
    random position."""
    excluded = {*sequence.tolist(), *chosen}
    items = draw_negatives(rng, num_items, excluded, count - 1 - len(chosen))
    for item in chosen:  # anywhere: the place of an item must not tell how it was drawn
        items.insert(int(rng.random() * (len(items) + 1)), item)
    items.insert(int(rng.random() * count), positive)
    return np.array(items, dtype=np.int32)


def whole_stars(rating: float) -> int:
    """Return a rating as 1 … 5 whole stars, halves rounded up."""
    return min(5, max(1, math.floor(rating + 0.5)))


def wrong_star(stars: int, rng: np.random.Generator) -> int:
    """Return one of the four other stars, uniformly."""
    return choose(rng, [star for star in range(1, 6) if star != stars])


def _cumulative(mean: float, deviation: float) -> list[float]:
    """Return P(jittered rating <= 1.0, 1.1, …, 4.9); rounding puts the edges at .05."""
    edges = [1.05 + 0.1 * step for step in range(40)]
    return [0.5 * (1 + math.erf((edge - mean) / (deviation * math.sqrt(2)))) for edge in edges]


_CUMULATIVE = {stars: _cumulative(mean, deviation) for stars, (mean, deviation) in _STARS.items()}


def jittered(stars: int, rng: np.random.Generator) -> str:
    """Return the rating text of a training target: N(mean, deviation) of the star, rounded to 0.1
    and clipped to [1, 5] (sampled from its 41 classes, so that no result of libm matters)."""
    tenths = 10 + bisect_right(_CUMULATIVE[stars], rng.random())
    return f"{tenths // 10}.{tenths % 10}"
