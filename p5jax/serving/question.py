"""What is asked of a recommender: whose next items, and among which."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from p5jax.core.errors import UserError
from p5jax.data.dataset import Dataset, Key, key_list


@dataclass(frozen=True)
class Question:
    """Whose next items are asked for, and among which.

    user: a key of the dataset. history: what he has, oldest first, in place of what the dataset
    knows; without a user it is a newcomer's, whom prompts that name their user call as the next
    one after the dataset's. candidates: only these are ranked. exclude: these are not.
    Items are named by their keys, or by titles that only one item has. A list becomes a tuple.
    UserError where nobody asks, or a list that is given is empty.
    """

    user: Key | None = None
    history: tuple[Key, ...] | None = None
    candidates: tuple[Key, ...] | None = None
    exclude: tuple[Key, ...] = ()

    def __post_init__(self) -> None:
        for name in ("history", "candidates", "exclude"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(key_list(getattr(self, name), name)))
        if self.user is None and self.history is None:
            raise UserError("found neither a user nor a history, expected one of them")
        for name in ("history", "candidates"):
            if getattr(self, name) == ():
                raise UserError(f"{name}: found no item, expected one or more")


class Case(NamedTuple):
    """A question in a dataset's indices.

    user: U, the number of users, for a newcomer. history, blocked: items, int [n]; candidates: the
    same, or None for the catalogue.
    """

    user: int
    history: np.ndarray
    candidates: np.ndarray | None = None
    blocked: np.ndarray = np.zeros(0, np.int64)

    @staticmethod
    def of_user(dataset: Dataset, user: int) -> Case:
        """Ask for the next items of a dataset's user."""
        return Case(user, dataset.sequence(user))

    @staticmethod
    def of(dataset: Dataset, question: Question) -> Case:
        """Look a question's keys up; UserError naming those that are unknown."""
        user = dataset.num_users if question.user is None else dataset.user_index(question.user)
        if question.history is None:
            history = dataset.sequence(user)
        else:
            history = _items(dataset, question.history, "history")
        chosen = question.candidates
        return Case(
            user,
            history,
            None if chosen is None else _items(dataset, chosen, "candidates"),
            _items(dataset, question.exclude, "exclude"),
        )


def _items(dataset: Dataset, names: Iterable[Key], what: str) -> np.ndarray:
    return np.array(dataset.named_items(names, what), np.int64)
