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
    examples, present = rounds.own_examples()
    rows = np.flatnonzero(np.isin(examples.users, users))
    owner = np.searchsorted(users, examples.users[rows])  # [n]
    places, choices = np.divmod(np.arange(len(rows) * candidates.shape[1]), candidates.shape[1])
    slots = rounds.slots(examples.users[rows[places]])
    slots[:, slot] = candidates[owner[places], choices]
    values = rounds.surrogate.values(examples, rows[places], slots)
    totals = np.zeros((len(users), 1 + candidates.shape[1]))
    np.add.at(totals, (owner, np.zeros_like(owner)), present[rows])
    np.add.at(totals, (owner[places], 1 + choices), values)
    current = rounds.users[users, slot - rounds.layout.task_tokens]
    tried = np.concatenate([current[:, None], candidates], axis=1)  # [U, 1+K]
    # argmax takes the first of equals: the present token stays where no other is better.
    return tried[np.arange(len(users)), totals.argmax(axis=1)]
