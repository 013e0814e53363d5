"""A trained run put to use: recommend, explain and generate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from p5jax.errors import UserError
from p5jax.inference.decoding import beam_search
from p5jax.inference.ranking import rank_catalogue
from p5jax.inference.trie import Trie
from p5jax.prompts.fields import Fields
from p5jax.prompts.template import PromptTemplate, Renderer
from p5jax.run import Run
from p5jax.training.partitioning import enable_compilation_cache


@dataclass(frozen=True)
class Recommendation:
    """One recommended item: its key and title in the source, and the log-probability of its id."""

    item: str
    title: str | None
    log_probability: float


class Recommender:
    """A run's model behind the questions a user of it asks, by the source's own keys."""

    def __init__(self, run: Run):
        self.run = run

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Recommender:
        """Open a run folder; UserError when it is not one or has no checkpoint."""
        enable_compilation_cache()
        return Recommender(Run.load(path))

    @cached_property
    def _trie(self) -> Trie:
        vocabulary = self.run.vocabulary
        sequences = [[*vocabulary.encode(i), vocabulary.eos_id] for i in self.run.dataset.item_ids]
        return Trie.build(sequences)

    def recommend(
        self,
        users: Sequence[str],
        k: int = 10,
        *,
        prompt: str = "2-3",
        beam: int = 64,
        exclude_history: bool = True,
    ) -> list[list[Recommendation]]:
        """Return each user's k most probable next items, best first, distinct and in the catalogue.

        The prompt holds the user's whole history. The log-probability is the model's, over the full
        vocabulary, for the item's id and the end of sequence.
        """
        dataset = self.run.dataset
        if not 1 <= k <= dataset.num_items:
            raise UserError(f"-k {k}: expected 1 to {dataset.num_items}, the size of the catalogue")
        indices = [dataset.user_index(user) for user in users]
        template = self._template(prompt, {"uid", "udesc", "hist"})
        tokens = self._tokens([self._inputs(template, self._history(u)) for u in indices])
        known = [dataset.sequence(u)[: None if exclude_history else 0] for u in indices]
        exclude = _padded(known, -1)
        items, logp = rank_catalogue(
            self.run.model, self.run.params, tokens, self._trie, k, max(beam, k), exclude
        )
        return [
            [
                Recommendation(dataset.item_keys[i], dataset.titles[i], float(score))
                for i, score in zip(row, scores, strict=True)
                if i >= 0
            ]
            for row, scores in zip(np.asarray(items), np.asarray(logp), strict=True)
        ]

    def explain(self, user: str, item: str, *, prompt: str | None = None) -> str:
        """Return the model's explanation of an item for a user, by beam search."""
        dataset = self.run.dataset
        if "explanation" not in self.run.manifest["families"]:
            raise UserError(f"{self.run.path}: trained without explanations; the data has none")
        u, i = dataset.user_index(user), dataset.item_index(item)
        # Without a title only a prompt that names the item's id can tell items apart.
        prompt = prompt or ("3-1" if dataset.titles[i] else "3-8")
        template = self._template(prompt, {"uid", "udesc", "iid", "title"})
        return self.generate(self._inputs(template, self._fields.of(u, i)))

    def generate(self, text: str) -> str:
        """Return the model's most probable answer to any text, by beam search."""
        if not text.strip():
            raise UserError("--text: found nothing, expected a prompt")
        vocabulary = self.run.vocabulary
        tokens = self._tokens([text])
        answers, _ = beam_search(self.run.model, self.run.params, tokens, max_length=64, beam=4)
        return vocabulary.decode(np.asarray(answers)[0, 0].tolist())

    def _template(self, prompt: str, fields: set[str]) -> PromptTemplate:
        templates = self.run.templates
        usable = [t.id for t in templates.values() if set(t.fields) <= fields]
        if prompt not in templates:
            raise UserError(f"prompt {prompt!r}: not in this run; usable here: {', '.join(usable)}")
        extra = sorted(set(templates[prompt].fields) - fields)
        if extra:
            raise UserError(f"prompt {prompt!r} needs {extra[0]}; usable here: {', '.join(usable)}")
        return templates[prompt]

    @cached_property
    def _fields(self) -> Fields:
        return Fields(self.run.dataset)

    def _history(self, user: int) -> dict[str, Any]:
        history = self._fields.history(self.run.dataset.sequence(user)[-self._longest :], " , ")
        return self._fields.of_user(user) | history

    @property
    def _longest(self) -> int:
        """The most history items a prompt was trained with."""
        return self.run.family_config.max_history or self.run.dataset.num_items

    def _inputs(self, template: PromptTemplate, fields: dict[str, Any]) -> str:
        max_source = self.run.family_config.max_source
        return Renderer(self.run.vocabulary, max_source).inputs(template, fields)

    def _tokens(self, texts: list[str]) -> np.ndarray:
        """Return encoder tokens [B, S], cut to the run's longest, padded to a multiple of 32."""
        vocabulary, longest = self.run.vocabulary, self.run.family_config.max_source
        rows = [[*vocabulary.encode(text)[: longest - 1], vocabulary.eos_id] for text in texts]
        return _padded(rows, vocabulary.pad_id, multiple=32)


def _padded(rows: Sequence[Sequence[int] | np.ndarray], fill: int, multiple: int = 8) -> np.ndarray:
    width = -(-max(1, *(len(row) for row in rows)) // multiple) * multiple
    padded = np.full((len(rows), width), fill, np.int32)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded
