"""Each user's own best candidate, all users scored together (PAP-REC, Eq. 8-11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from p5jax.triggers.rounds import Rounds


def choose_for_users(
    rounds: Rounds, slot: int, users: np.ndarray, candidates: np.ndarray
) -> np.ndarray:
    """The token [U] of each user in `slot`: the candidate [U, K] that is best on the user's own
    examples, or the present one where none is better than it."""
    examples, current = rounds.own_examples, rounds.users[users, slot - rounds.layout.task_tokens]
    rows = np.flatnonzero(np.isin(examples.users, users))
    owner = np.searchsorted(users, examples.users[rows])  # [n]
    places, choices = np.divmod(np.arange(len(rows) * candidates.shape[1]), candidates.shape[1])
    slots = rounds.slots(examples.users[rows[places]])
    slots[:, slot] = candidates[owner[places], choices]
    totals = np.zeros(candidates.shape)
    values = rounds.surrogate.values(examples, rows[places], slots)
    np.add.at(totals, (owner[places], choices), values)
    # Nothing is above a present token where no candidate is above the least.
    asked = np.flatnonzero(totals.max(axis=1)[owner] > rounds.surrogate.least)
    slots = rounds.slots(examples.users[rows[asked]])
    present = np.full(len(users), np.inf)
    present[owner[asked]] = 0.0
    np.add.at(present, owner[asked], rounds.surrogate.values(examples, rows[asked], slots))
    best = candidates[np.arange(len(users)), totals.argmax(axis=1)]
    return np.where(totals.max(axis=1) > present, best, current)
