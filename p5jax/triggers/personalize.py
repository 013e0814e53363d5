"""Each user's own best candidate, all users scored together (PAP-REC, Eq. 8-11)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def choose_for_users(
    values: Callable[[np.ndarray, np.ndarray], np.ndarray],
    owners: np.ndarray,
    current: np.ndarray,
    candidates: np.ndarray,
    least: float,
) -> np.ndarray:
    """The token [U] of each user: the candidate [U, K] that is best on the user's own examples, or
    the current one [U] where none is better.

    values(examples [M], tokens [M]) -> [M] scores examples, each with a token; owners [N] are the
    users (0 to U-1) of the N examples. No value is below `least`.
    """
    width = candidates.shape[1]
    examples, choices = np.divmod(np.arange(len(owners) * width), width)
    totals = np.zeros(candidates.shape)
    tried = candidates[owners[examples], choices]
    np.add.at(totals, (owners[examples], choices), values(examples, tried))
    # A current token cannot be beaten where no candidate is above the least.
    asked = np.flatnonzero(totals.max(axis=1)[owners] > least)
    so_far = np.full(len(current), np.inf)
    so_far[owners[asked]] = 0.0
    np.add.at(so_far, owners[asked], values(asked, current[owners[asked]]))
    best: np.ndarray = candidates[np.arange(len(current)), totals.argmax(axis=1)]
    return np.where(totals.max(axis=1) > so_far, best, current)
