"""Candidates against each other: all on every example, or dropped on growing shares of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

_SHARES = (0.125, 0.25, 0.5, 1.0)  # of the examples, after which candidates may be dropped


def p_value(differences: np.ndarray) -> float:
    """One-sided p of a paired t-test that differences [N] are above zero on average.

    Where all are equal, for which a t-test is undefined, the p of the sign test.
    """
    mean, spread = float(differences.mean()), float(differences.std())
    if len(differences) < 2 or spread == 0.0:
        return 0.5 ** len(differences) if mean > 0.0 else 1.0
    return float(stats.ttest_1samp(differences, 0.0, alternative="greater").pvalue)


def race(
    values: Callable[[np.ndarray, np.ndarray], np.ndarray],
    incumbent: np.ndarray,
    candidates: int,
    level: float | None,
    rng: np.random.Generator,
) -> tuple[int, np.ndarray | None, int]:
    """Find the candidate of the greatest mean value, if one is above the incumbent's.

    values(candidates [M], examples [M]) -> [M] scores candidates on examples; incumbent [N] are the
    values without a change. With a `level`, candidates that a paired test at that level finds
    worse than the incumbent or the leader are dropped early; those that are left are compared on
    all N. Returns (winner or -1, its values [N] or None, how many prompts were scored).
    """
    count = len(incumbent)
    order = rng.permutation(count)
    found = np.full((candidates, count), np.nan)
    alive, seen, scored = np.arange(candidates), 0, 0
    for share in _SHARES if level is not None else (1.0,):
        examples = order[seen : max(seen, int(np.ceil(share * count)))]
        tried, on = np.repeat(alive, len(examples)), np.tile(examples, len(alive))
        found[tried, on] = values(tried, on)
        scored, seen = scored + len(tried), seen + len(examples)
        if level is not None and seen < count:
            alive = _survivors(found[alive][:, order[:seen]], incumbent[order[:seen]], alive, level)
            if not len(alive):
                return -1, None, scored
    means = found[alive].mean(axis=1)
    best = int(np.argmax(means))
    if means[best] <= incumbent.mean():
        return -1, None, scored
    return int(alive[best]), found[alive[best]], scored


def _survivors(
    found: np.ndarray, incumbent: np.ndarray, alive: np.ndarray, level: float
) -> np.ndarray:
    leader = found[np.argmax(found.mean(axis=1))]
    kept = [p_value(incumbent - own) > level and p_value(leader - own) > level for own in found]
    left: np.ndarray = alive[np.array(kept, bool)]
    return left
