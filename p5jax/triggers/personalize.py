"""Each user's own best candidate, all users scored together (PAP-REC, Eq. 8-11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from p5jax.triggers.examples import Examples

if TYPE_CHECKING:
    from p5jax.triggers.rounds import Rounds


def choose_for_users(
    rounds: Rounds, slot: int, users: np.ndarray, candidates: np.ndarray, examples: Examples
) -> np.ndarray:
    """The token [U] of each user in `slot`: the candidate [U, K] that is best on the user's own
    examples, or the present one where none is better than it."""
    current = rounds.users[users, slot - rounds.layout.task_tokens]
    tried = np.concatenate([current[:, None], candidates], axis=1)  # [U, 1+K]
    rows = np.flatnonzero(np.isin(examples.users, users))
    owner = np.searchsorted(users, examples.users[rows])  # [n]
    places, choices = np.divmod(np.arange(len(rows) * tried.shape[1]), tried.shape[1])
    slots = rounds.slots(examples.users[rows[places]])
    slots[:, slot] = tried[owner[places], choices]
    values = rounds.surrogate.values(examples, rows[places], slots)
    totals = np.zeros(tried.shape)
    np.add.at(totals, (owner[places], choices), values)
    # argmax takes the first of equals: the present token stays where no other is better.
    return tried[np.arange(len(users)), totals.argmax(axis=1)]
