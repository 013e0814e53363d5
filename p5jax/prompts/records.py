"""The families with one example per record: rating, explanation and review."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from p5jax.data.dataset import SPLITS
from p5jax.prompts.family import Example, ExampleSource, Family
from p5jax.prompts.fields import prompt_text
from p5jax.prompts.sampling import choose, coin, jittered, whole_stars, wrong_star
from p5jax.prompts.template import PromptTemplate

LIKE_FROM = 4  # stars
_SLICE = 1 << 16  # rows whose text is held as Python strings at a time

# What a record may lack, as bits; a template is used only for records that have all it needs.
_RATING, _TEXT, _HEADLINE, _FEATURE, _SENTENCE = 1, 2, 4, 8, 16
_NEEDS = {
    "star": _RATING,
    "rating": _RATING,
    "yes_no": _RATING,
    "like": _RATING,
    "review": _TEXT,
    "headline": _HEADLINE,
    "feature": _FEATURE,
    "explanation": _SENTENCE,
}
_COLUMNS = {
    "review": "text",
    "headline": "headline",
    "feature": "feature",
    "explanation": "sentence",
}


def _needs(template: PromptTemplate) -> int:
    needs = 0
    for name in template.fields + template.target_fields:
        needs |= _NEEDS.get(name, 0)
    return needs


def _present(column: pa.ChunkedArray) -> np.ndarray:
    """Return which rows of a text column hold more than blanks: [rows] bool."""
    present = np.zeros(len(column), bool)
    for start in range(0, len(column), _SLICE):
        texts = column.slice(start, _SLICE).to_pylist()
        present[start : start + len(texts)] = [bool(text and text.strip()) for text in texts]
    return present


def _ordinals(groups: np.ndarray) -> np.ndarray:
    """Return how many rows of its group stand before each row [N]: int64 [N]."""
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], groups[order])
    found = np.empty(len(groups), np.int64)
    found[order] = np.arange(len(groups)) - starts
    return found


class RecordFamily(Family):
    """One example per record of a dataset's table that has the field `base`.

    jitters: training stars get jitter. tells: placeholders of stars that training knows.
    """

    table: str
    base: int
    jitters: bool
    tells: frozenset[str] = frozenset()

    def __init__(self, source: ExampleSource, templates: Mapping[str, PromptTemplate]):
        super().__init__(source, templates)
        table: pa.Table = getattr(source.dataset, self.table)
        self._users = table["user"].to_numpy()
        self._items = table["item"].to_numpy()
        self._ratings = table["rating"].to_numpy().astype(np.float64)
        self._splits = table["split"].to_numpy()
        self._has = np.where(np.isnan(self._ratings), 0, _RATING)
        # Which of a user's rows in its split a row is: each has a random stream of its own.
        self._ordinals = _ordinals(self._users * np.int64(len(SPLITS)) + self._splits)
        self._texts: dict[str, pa.ChunkedArray] = {}
        for name, column in _COLUMNS.items():
            if column in table.column_names:
                self._texts[name] = table[column]
                self._has |= np.where(_present(table[column]), _NEEDS[name], 0)
        self._rows: dict[tuple[str, str | None], np.ndarray] = {}
        self._fitting: dict[int, tuple[PromptTemplate, ...]] = {
            has: tuple(t for t in self.seen if not _needs(t) & ~has)
            for has in np.unique(self._has).tolist()
        }

    def size(self, split: str, prompt_id: str | None = None) -> int:
        return len(self.rows(split, prompt_id))

    def users(self, split: str, prompt_id: str | None = None) -> np.ndarray:
        users: np.ndarray = self._users[self.rows(split, prompt_id)]
        return users

    def rows(self, split: str, prompt_id: str | None = None) -> np.ndarray:
        """Return the rows of the family's table that a split's examples come from, in order."""
        key = (split, prompt_id)
        if key not in self._rows:
            if prompt_id is None:
                drawable = [has for has, fitting in self._fitting.items() if fitting]
                fits = np.isin(self._has, drawable)
            else:
                template = self.template(prompt_id)
                needs = _needs(template)
                fits = ((self._has & needs) == needs) & self.source.can_say(template)
            fits &= (self._splits == SPLITS.index(split)) & ((self._has & self.base) > 0)
            self._rows[key] = np.flatnonzero(fits)
        return self._rows[key]

    def example(
        self,
        split: str,
        index: int,
        rng: np.random.Generator | None = None,
        prompt_id: str | None = None,
    ) -> Example:
        row = int(self.rows(split, prompt_id)[index])
        user, item, has = int(self._users[row]), int(self._items[row]), int(self._has[row])
        rng = self._stream(split, user, rng, int(self._ordinals[row]))
        if prompt_id is None:
            template = choose(rng, self._fitting[has])
        else:
            template = self.template(prompt_id)
        fields = self.source.fields.of(user, item)
        if not self.tells.isdisjoint(template.fields):
            fields |= self.source.known_stars.fields(user, item, row)
        for name in template.fields + template.target_fields:
            if name in self._texts:
                fields[name] = prompt_text(self._texts[name][row].as_py())
        answer: float | str | None = None
        if has & _RATING:
            stars = whole_stars(self._ratings[row])
            self._put_stars(template, fields, stars, split, rng)
            answer = float(stars)
        for name in ("explanation", "headline", "yes_no", "like"):
            if name in template.target_fields:
                answer = fields[name]
        given = template.given(fields)
        return self._example(template, user, item, fields, answer, given=given)

    def _put_stars(
        self,
        template: PromptTemplate,
        fields: dict[str, Any],
        stars: int,
        split: str,
        rng: np.random.Generator,
    ) -> None:
        fields["star"] = fields["rating"] = str(stars)
        fields["like"] = "like" if stars >= LIKE_FROM else "dislike"
        if "yes_no" in template.target_fields:
            fields["yes_no"] = "yes" if coin(rng) else "no"
            if fields["yes_no"] == "no":
                fields["star"] = str(wrong_star(stars, rng))
        jitter = self.jitters and split == "train" and self.source.config.jitter
        if jitter and "rating" in template.target_fields:
            fields["rating"] = jittered(stars, rng)


class Rating(RecordFamily):
    """One example per rated interaction."""

    name, table, base, jitters = "rating", "interactions", _RATING, True
    tells = frozenset({"gave", "got"})


class Explanation(RecordFamily):
    """One example per review with an explanation sentence."""

    name, table, base, jitters = "explanation", "reviews", _SENTENCE, True


class Review(RecordFamily):
    """One example per review with a text; its stars are never jittered (P5's 4-2 and 4-4)."""

    name, table, base, jitters = "review", "reviews", _TEXT, False
