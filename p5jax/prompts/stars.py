"""The stars that training knows of a user and of an item."""

from __future__ import annotations

import numpy as np

from p5jax.data.dataset import TRAIN, Dataset
from p5jax.prompts.sampling import whole_stars

# Stars that a prompt tells of a user, and of an item, at most; as many say as much as all. A ridge
# on their shrunken means has RMSE .8993 with 5, .8940 with 10, .8945 with 20 and .8947 with all, on
# validation of Musical Instruments.
NEWEST = 10
NO_STARS = "none"


class KnownStars:
    """Tells the newest training stars of a user and of an item, newest first, as words.

    A training row's own stars are left out of what its prompt tells, so that training and
    evaluation ask the same: the stars of a pair from those of others.
    """

    def __init__(self, dataset: Dataset) -> None:
        table = dataset.interactions
        ratings = table["rating"].to_numpy().astype(np.float64)
        rows = np.flatnonzero((table["split"].to_numpy() == TRAIN) & ~np.isnan(ratings))
        times = table["timestamp"].to_numpy()[rows]
        rows = rows[np.argsort(times, kind="stable")]
        self._stars = {row: str(whole_stars(ratings[row])) for row in rows.tolist()}
        self._of_user = _grouped(rows, table["user"].to_numpy(), dataset.num_users)
        self._of_item = _grouped(rows, table["item"].to_numpy(), dataset.num_items)

    def fields(self, user: int, item: int, row: int | None = None) -> dict[str, str]:
        """Return the placeholders {gave} and {got} of a pair; `row` is its own interaction's."""
        return {
            "gave": self._words(self._of_user[user], row),
            "got": self._words(self._of_item[item], row),
        }

    def _words(self, rows: np.ndarray, own: int | None) -> str:
        newest = [row for row in rows[: -NEWEST - 2 : -1].tolist() if row != own][:NEWEST]
        return " ".join(self._stars[row] for row in newest) or NO_STARS


def _grouped(rows: np.ndarray, owners: np.ndarray, count: int) -> list[np.ndarray]:
    """Return the rows of each owner, in their order."""
    order = np.argsort(owners[rows], kind="stable")
    ends = np.cumsum(np.bincount(owners[rows], minlength=count))
    return np.split(rows[order], ends[:-1])
