"""Reviews of one split, and what they say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from p5jax.data.dataset import SPLITS, Dataset
from p5jax.prompts.fields import prompt_text
from p5jax.prompts.sampling import whole_stars


@dataclass(frozen=True)
class Reviews:
    """The reviews of one split, N rows."""

    table: pa.Table

    @staticmethod
    def of(dataset: Dataset, split: str) -> Reviews:
        """Return a split's reviews."""
        kept = dataset.reviews["split"].to_numpy() == SPLITS.index(split)
        return Reviews(dataset.reviews.filter(pa.array(kept)))

    def by(self, users: np.ndarray, items: np.ndarray) -> Reviews:
        """Return the reviews of pairs of users and items [N] that have one, in their order."""
        own = zip(self.table["user"].to_pylist(), self.table["item"].to_pylist(), strict=True)
        row_of = {pair: row for row, pair in enumerate(own)}
        pairs = zip(users.tolist(), items.tolist(), strict=True)
        return Reviews(self.table.take([row_of[pair] for pair in pairs]))

    def with_texts(self, *columns: str) -> Reviews:
        """Return the reviews that have all of some texts."""
        has = np.array([[bool(text) for text in self.texts(name)] for name in columns])
        return Reviews(self.table.filter(pa.array(has.all(axis=0))))

    def with_stars(self) -> Reviews:
        """Return the reviews that have a rating."""
        return Reviews(self.table.filter(self.table["rating"].is_valid()))

    def spread(self, most: int) -> Reviews:
        """Return at most so many of the reviews, evenly spaced."""
        step = -(-self.table.num_rows // most) or 1
        return Reviews(self.table.take(np.arange(0, self.table.num_rows, step)))

    def texts(self, column: str) -> list[str]:
        """Return a column as prompts say it, "" where there is nothing, [N]."""
        return [prompt_text(text) for text in self.table[column].to_pylist()]

    def items(self) -> np.ndarray:
        """Return the items, [N]."""
        found: np.ndarray = self.table["item"].to_numpy()
        return found

    def stars(self) -> np.ndarray:
        """Return whole stars, [N]; each review has some."""
        return np.array([whole_stars(each) for each in self.table["rating"].to_pylist()], float)
