"""The families that go by user: sequential and direct."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from p5jax.core.errors import UserError
from p5jax.data.names import HELD_OUT_SPLITS
from p5jax.prompts.family import Example, ExampleSource, Family, FamilyConfig
from p5jax.prompts.sampling import choose, coin, training_window
from p5jax.prompts.template import HISTORY_SEPARATORS, PromptTemplate


class UserFamily(Family):
    """A family whose examples go by user: some per user in training, in another split one of each
    user who has something held out there, about the first of it."""

    def __init__(self, source: ExampleSource, templates: Mapping[str, PromptTemplate]):
        super().__init__(source, templates)
        dataset = source.dataset
        counts = self.training_examples(source.config, dataset.training_lengths)
        self._owners = np.repeat(np.arange(len(counts)), counts)
        self._firsts = np.cumsum(counts) - counts
        self._users = {split: dataset.held_out_users(split) for split in HELD_OUT_SPLITS}
        self._users["train"] = self._owners

    @classmethod
    def lack(cls, source: ExampleSource) -> str | None:
        if source.num_candidates < 2:
            return "a user has interactions with all items, so nothing is left to compare with"
        return None

    @staticmethod
    @abstractmethod
    def training_examples(config: FamilyConfig, lengths: np.ndarray) -> np.ndarray:
        """Return how many examples of an epoch users with so many training items [U] have: [U]."""

    def size(self, split: str, prompt_id: str | None = None) -> int:
        if prompt_id is not None and not self.source.can_say(self.template(prompt_id)):
            return 0
        asked = self.seen or (split != "train" and prompt_id is not None)
        return len(self._users[split]) if asked else 0

    def users(self, split: str, prompt_id: str | None = None) -> np.ndarray:
        return self._users[split]

    def example(
        self,
        split: str,
        index: int,
        rng: np.random.Generator | None = None,
        prompt_id: str | None = None,
    ) -> Example:
        user = int(self.users(split)[index])
        ordinal = index - int(self._firsts[user]) if split == "train" else 0
        rng = self._stream(split, user, rng)
        template = choose(rng, self.seen) if prompt_id is None else self.template(prompt_id)
        return self._draw(template, split, user, ordinal, rng)

    def candidate_example(self, split: str, index: int, prompt_id: str, item: int) -> Example:
        """Return a held-out pair's yes/no prompt, asked about `item` instead."""
        user = int(self._users[split][index])
        template = self.template(prompt_id)
        if "yes_no" not in template.target_fields:
            raise UserError(f"prompts: {prompt_id!r} does not ask about one item")
        yes = item == self.source.dataset.target(user, split)
        return self._ask(template, user, item, yes, self._context(split, user), None)

    @abstractmethod
    def _draw(
        self,
        template: PromptTemplate,
        split: str,
        user: int,
        ordinal: int,
        rng: np.random.Generator,
    ) -> Example:
        """Return an example of a user, in training the `ordinal`-th of an epoch."""

    def lists(self, prompt_id: str) -> bool:
        template, config = self.template(prompt_id), self.source.config
        if "list" in template.target_fields:
            return True
        return _only_item(template) and (config.repeat > 0 or config.horizon > 1)

    def given(self, prompt_id: str, history: np.ndarray) -> str:
        return self.source.listed(self._given(self.template(prompt_id), history))

    def _given(self, template: PromptTemplate, history: np.ndarray) -> np.ndarray:
        config = self.source.config
        if "list" in template.target_fields:
            return history[-config.max_history :]  # 0 keeps all
        repeated = min(config.repeat, len(history)) if _only_item(template) else 0
        return history[len(history) - repeated :]

    def _context(self, split: str, user: int) -> dict[str, Any]:
        """Return the fields of a held-out pair beside its user's and item's."""
        history = self.source.dataset.history(user, split)
        return self.source.history(history, HISTORY_SEPARATORS[0])

    def _next_item(
        self,
        template: PromptTemplate,
        split: str,
        user: int,
        history: np.ndarray,
        following: np.ndarray,
        context: dict[str, Any],
        rng: np.random.Generator,
    ) -> Example:
        """Ask for the first of the items that follow a history, or for as many as the horizon."""
        source, item, candidates = self.source, int(following[0]), None
        if "cand" in template.fields:
            candidates, following = self._candidates(split, user, item, rng), following[:1]
            context["cand"] = source.fields.ids(candidates)
        if self.lists(template.id):
            following = following[: source.config.horizon]
            given = self._given(template, history)
            return self._listing(template, user, given, following, context, candidates)
        fields = source.fields.of(user, item) | context
        return self._example(template, user, item, fields, None, candidates)

    def _listing(
        self,
        template: PromptTemplate,
        user: int,
        given: np.ndarray,
        following: np.ndarray,
        context: dict[str, Any] | None = None,
        candidates: np.ndarray | None = None,
    ) -> Example:
        """Ask for the items that follow; of a list that is asked for whole, for its last ones."""
        source = self.source
        if "list" in template.target_fields:
            following = following[-source.config.max_history :]
        answer = source.listed(np.concatenate([given, following]))
        fields = source.fields.of_user(user) | (context or {}) | {"item": answer, "list": answer}
        item, asked = int(following[0]), len(following)
        given_text = source.listed(given)
        return self._example(
            template, user, item, fields, None, candidates, given=given_text, listed=asked
        )

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
        told = ""
        if "told" in template.target_fields:
            told = self.source.ended([*context["hist"], fields["item"]])
        fields |= {"yes_no": answer, "told": told}
        return self._example(template, user, item, fields, answer, candidates, given=told)


def _only_item(template: PromptTemplate) -> bool:
    """Whether a prompt tells a history and asks for nothing but an item."""
    return template.targets == "{item}" and "hist" in template.fields


class Sequential(UserFamily):
    """The next item after a history: P5's sampling or every prefix in training, the first that is
    held out elsewhere."""

    name = "sequential"

    @staticmethod
    def training_examples(config: FamilyConfig, lengths: np.ndarray) -> np.ndarray:
        pairs = np.maximum(lengths - 1, 0)
        return pairs if config.prefixes else np.where(pairs, config.sequential_per_user, 0)

    def _draw(
        self,
        template: PromptTemplate,
        split: str,
        user: int,
        ordinal: int,
        rng: np.random.Generator,
    ) -> Example:
        source, history = self.source, self.source.dataset.history(user, split)
        if split == "train":
            sequence = history
            if "list" in template.target_fields:
                return self._listing(template, user, sequence[:0], sequence)
            start, target = 0, ordinal + 1
            if not source.config.prefixes:
                start, target = training_window(len(sequence) + 2, rng)
            history = sequence[start:target]
            context = source.history(history, choose(rng, HISTORY_SEPARATORS))
        else:
            target = len(history)
            sequence = source.dataset.sequence(user)[: target + 1]
            context = self._context(split, user)
        if "yes_no" in template.target_fields:
            item, yes = int(sequence[target]), coin(rng)
            return self._question(template, split, user, item, yes, context, rng)
        following = sequence[target:]
        return self._next_item(template, split, user, history, following, context, rng)


class Direct(UserFamily):
    """One of a candidate list, or yes/no about one item. Held-out examples carry candidates.

    In training a prompt that tells the history tells what came before the item.
    """

    name = "direct"

    @staticmethod
    def training_examples(config: FamilyConfig, lengths: np.ndarray) -> np.ndarray:
        return np.where(lengths >= 1, config.direct_per_user, 0)

    def _draw(
        self,
        template: PromptTemplate,
        split: str,
        user: int,
        ordinal: int,
        rng: np.random.Generator,
    ) -> Example:
        source, sequence = self.source, self.source.dataset.sequence(user)
        if split == "train":
            told = not {"hist", "told"}.isdisjoint(template.fields + template.target_fields)
            known = len(source.dataset.history(user, split))
            target = choose(rng, range(int(told and known > 1), known))
            context = {}
            if told:
                context = source.history(sequence[:target], choose(rng, HISTORY_SEPARATORS))
        else:
            target = len(source.dataset.history(user, split))
            context = self._context(split, user)
        if "yes_no" in template.target_fields:
            item, yes = int(sequence[target]), split != "train" or coin(rng)
            return self._question(template, split, user, item, yes, context, rng)
        history, following = sequence[:target], sequence[target : target + 1]
        return self._next_item(template, split, user, history, following, context, rng)
