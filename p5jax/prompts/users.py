"""The families that go by user: sequential and direct."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from p5jax.core.errors import UserError
from p5jax.prompts.family import Example, ExampleSource, Family, FamilyConfig
from p5jax.prompts.sampling import choose, coin, training_window
from p5jax.prompts.template import HISTORY_SEPARATORS, PromptTemplate


class UserFamily(Family):
    """A family whose examples go by user: some per user in training, one in the other splits."""

    shortest: int  # interactions a user needs for a training example

    def __init__(self, source: ExampleSource, templates: Mapping[str, PromptTemplate]):
        super().__init__(source, templates)
        self.per_user = self.training_examples(source.config)
        lengths = np.diff(source.dataset.offsets)
        self._training_users = np.flatnonzero(lengths >= self.shortest)
        self._held_out_users = np.flatnonzero(lengths >= 3)

    @classmethod
    def lack(cls, source: ExampleSource) -> str | None:
        if source.num_candidates < 2:
            return "a user has interactions with all items, so nothing is left to compare with"
        return None

    @staticmethod
    @abstractmethod
    def training_examples(config: FamilyConfig) -> int:
        """Return a user's number of examples in an epoch of training."""

    def size(self, split: str, prompt_id: str | None = None) -> int:
        if prompt_id is not None:
            self.template(prompt_id)
        if split == "train":
            return len(self._training_users) * self.per_user if self.seen else 0
        return len(self._held_out_users) if self.seen or prompt_id is not None else 0

    def users(self, split: str, prompt_id: str | None = None) -> np.ndarray:
        if split == "train":
            return np.repeat(self._training_users, self.per_user)
        return self._held_out_users

    def example(
        self,
        split: str,
        index: int,
        rng: np.random.Generator | None = None,
        prompt_id: str | None = None,
    ) -> Example:
        if split == "train":
            user = int(self._training_users[index // self.per_user])
        else:
            user = int(self._held_out_users[index])
        rng = self._stream(split, user, rng)
        template = choose(rng, self.seen) if prompt_id is None else self.template(prompt_id)
        return self._draw(template, split, user, rng)

    def candidate_example(self, split: str, index: int, prompt_id: str, item: int) -> Example:
        """Return a held-out pair's yes/no prompt, asked about `item` instead."""
        user = int(self._held_out_users[index])
        template = self.template(prompt_id)
        if "yes_no" not in template.target_fields:
            raise UserError(f"prompts: {prompt_id!r} does not ask about one item")
        yes = item == self.source.dataset.target(user, split)
        return self._ask(template, user, item, yes, self._context(split, user), None)

    @abstractmethod
    def _draw(
        self, template: PromptTemplate, split: str, user: int, rng: np.random.Generator
    ) -> Example: ...

    def _context(self, split: str, user: int) -> dict[str, Any]:
        """Return the fields of a held-out pair beside its user's and item's."""
        return {}

    def _candidates(
        self, split: str, user: int, positive: int, rng: np.random.Generator
    ) -> np.ndarray:
        if split == "train":
            return self.source.candidates(split, user, positive, rng)
        return self.source.frozen_candidates(split, user)

    def _question(
        self,
        template: PromptTemplate,
        split: str,
        user: int,
        item: int,
        yes: bool,
        context: dict[str, Any],
        rng: np.random.Generator,
    ) -> Example:
        """Ask about the item, or about one that the answer is "no" to."""
        asked = item if yes else self.source.negative(split, user, rng)
        frozen = None if split == "train" else self.source.frozen_candidates(split, user)
        return self._ask(template, user, asked, yes, context, frozen)

    def _ask(
        self,
        template: PromptTemplate,
        user: int,
        item: int,
        yes: bool,
        context: dict[str, Any],
        candidates: np.ndarray | None,
    ) -> Example:
        answer = "yes" if yes else "no"
        fields = self.source.fields.of(user, item) | context
        fields["yes_no"] = answer
        return self._example(template, user, item, fields, answer, candidates)


class Sequential(UserFamily):
    """The next item after a history: P5's sampling in training, leave-one-out elsewhere."""

    name, shortest = "sequential", 4

    @staticmethod
    def training_examples(config: FamilyConfig) -> int:
        return config.sequential_per_user

    def _draw(
        self, template: PromptTemplate, split: str, user: int, rng: np.random.Generator
    ) -> Example:
        source = self.source
        if split == "train":
            sequence = source.dataset.sequence(user)
            start, target = training_window(len(sequence), rng)
            item = int(sequence[target])
            context = source.history(sequence[start:target], choose(rng, HISTORY_SEPARATORS))
        else:
            item = source.dataset.target(user, split)
            context = self._context(split, user)
        if "yes_no" in template.target_fields:
            return self._question(template, split, user, item, coin(rng), context, rng)
        candidates = None
        if "cand" in template.fields:
            candidates = self._candidates(split, user, item, rng)
            context["cand"] = source.fields.ids(candidates)
        fields = source.fields.of(user, item) | context
        return self._example(template, user, item, fields, None, candidates)

    def _context(self, split: str, user: int) -> dict[str, Any]:
        history = self.source.dataset.history(user, split)
        return self.source.history(history, HISTORY_SEPARATORS[0])


class Direct(UserFamily):
    """One of a candidate list, or yes/no about one item. Held-out examples carry candidates."""

    name, shortest = "direct", 3

    @staticmethod
    def training_examples(config: FamilyConfig) -> int:
        return config.direct_per_user

    def _draw(
        self, template: PromptTemplate, split: str, user: int, rng: np.random.Generator
    ) -> Example:
        source = self.source
        if split == "train":
            item = choose(rng, source.dataset.sequence(user)[:-2].tolist())
        else:
            item = source.dataset.target(user, split)
        if "yes_no" in template.target_fields:
            yes = split != "train" or coin(rng)
            return self._question(template, split, user, item, yes, {}, rng)
        candidates = self._candidates(split, user, item, rng)
        fields = source.fields.of(user, item) | {"cand": source.fields.ids(candidates)}
        return self._example(template, user, item, fields, None, candidates)
