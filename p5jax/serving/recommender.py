"""A trained run put to use: recommend, explain and generate."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from p5jax.core.errors import UserError
from p5jax.inference.decoding import beam_search
from p5jax.inference.ranking import id_trie, rank
from p5jax.inference.trie import Trie
from p5jax.parallel.partitioning import enable_compilation_cache
from p5jax.parallel.placing import place_rows, to_host
from p5jax.pipeline.batching import padded
from p5jax.prompts.fields import Fields
from p5jax.prompts.template import PromptTemplate, Renderer
from p5jax.runs.run import Run
from p5jax.triggers.layout import PROMPT_ID
from p5jax.triggers.prompt import TriggerPrompt, load_triggers


@dataclass(frozen=True)
class Recommendation:
    """One recommended item: its key and title in the source, and the log-probability of its id."""

    item: str
    title: str | None
    log_probability: float


@dataclass(frozen=True)
class Recommended:
    """A user's recommendations, best first, and whether they are provably the model's best."""

    items: list[Recommendation]
    exact: bool


class Recommender:
    """A run's model behind the questions a user of it asks, by the source's own keys."""

    def __init__(self, run: Run, triggers: TriggerPrompt | None = None):
        self.run, self.triggers = run, triggers
        self._templates = dict(run.templates)
        if triggers:
            self._templates[PROMPT_ID] = triggers.template(run.vocabulary)
        self._tries: dict[str, Trie] = {}

    @staticmethod
    def load(
        path: str | os.PathLike[str], triggers: str | os.PathLike[str] | None = None
    ) -> Recommender:
        """Open a run folder, and a folder of trigger tokens whose prompt it is to use.

        UserError when either is not one, the run has no checkpoint, or the tokens are another's.
        """
        enable_compilation_cache()
        run = Run.load(path)
        return Recommender(run, load_triggers(triggers, run) if triggers else None)

    def recommend(
        self,
        users: Sequence[str],
        k: int = 10,
        *,
        prompt: str | None = None,
        method: str = "certified",
        beam: int = 64,
        exact: bool = False,
        exclude_history: bool = True,
        exclude: Sequence[str] = (),
    ) -> list[Recommended]:
        """Return each user's k most probable next items, best first, distinct and in the catalogue.

        The prompt holds the user's history, as much as prompts had in training. The log-probability
        is the model's, over the full vocabulary, for the item's id and the end of sequence.
        `method`, `beam` and `exact` are as in inference.ranking.rank; `exclude` names items that
        nobody is to get. Without a `prompt` it is the one of the triggers, or else 2-3.
        """
        if not users:
            return []
        dataset = self.run.dataset
        self.check_k(k)
        indices = [dataset.user_index(user) for user in users]
        blocked = [dataset.item_index(item) for item in exclude]
        ranking = rank(
            self.run.model,
            self.run.params,
            padded(self.history_prompts(indices, self.own_prompt("sequential", prompt, "2-3"))),
            self.trie(method),
            k,
            method,
            beam=beam,
            exact=exact,
            exclude=self.excluded(indices, exclude_history, blocked),
        )
        return [
            Recommended(
                [
                    Recommendation(dataset.item_keys[i], dataset.titles[i], float(score))
                    for i, score in zip(row, scores, strict=True)
                    if i >= 0
                ],
                bool(certain),
            )
            for row, scores, certain in zip(*ranking, strict=True)
        ]

    def check_k(self, k: int) -> None:
        """Raise UserError unless the catalogue has k items."""
        if not 1 <= k <= self.run.dataset.num_items:
            raise UserError(
                f"-k {k}: expected 1 to {self.run.dataset.num_items}, the size of the catalogue"
            )

    def trie(self, method: str) -> Trie:
        """Return the trie of the item ids that a ranking method wants."""
        if method not in self._tries:
            ids = self.run.dataset.item_ids
            self._tries[method] = id_trie(ids, self.run.vocabulary, method)
        return self._tries[method]

    def history_prompts(self, users: Iterable[int], prompt: str) -> list[list[int]]:
        """Return the tokens of the users' prompts for a next item, each with the user's history."""
        template = self._template(prompt, {"uid", "udesc", "hist", "trigger"}, "item")
        return self._tokens(self._inputs(template, self._history(user)) for user in users)

    def excluded(
        self, users: Iterable[int], history: bool, blocked: Sequence[int] = ()
    ) -> np.ndarray:
        """Return items [B, E] not to recommend, padded with -1: blocked ones and the history.

        E is the same for all users of a dataset.
        """
        sequence, longest = self.run.dataset.sequence, int(np.diff(self.run.dataset.offsets).max())
        rows = [[*blocked, *(sequence(user) if history else ())] for user in users]
        return padded(rows, -1, longest + len(blocked))

    def explain(self, user: str, item: str, *, prompt: str | None = None) -> str:
        """Return the model's explanation of an item for a user, by beam search."""
        dataset = self.run.dataset
        if "explanation" not in self.run.manifest["families"]:
            raise UserError(f"{self.run.path}: trained without explanations; the data has none")
        u, i = dataset.user_index(user), dataset.item_index(item)
        # Without a title only a prompt that names the item's id can tell items apart.
        prompt = self.own_prompt("explanation", prompt, "3-1" if dataset.titles[i] else "3-8")
        fields = {"uid", "udesc", "iid", "title", "trigger"}
        template = self._template(prompt, fields, "explanation")
        return self._answer(self._inputs(template, self._fields.of(u, i)))

    def generate(self, text: str) -> str:
        """Return the model's most probable answer to any text, by beam search; triggers stand
        around the text, those of a user who is not known among them."""
        if not text.strip():
            raise UserError("--text: found nothing, expected a prompt")
        if self.triggers:
            vocabulary, slots = self.run.vocabulary, self.triggers.layout.slots
            room = self.run.family_config.max_source - slots - 1
            tokens = vocabulary.encode(text)
            if len(tokens) > room:  # the text is cut, not the triggers behind it
                text = vocabulary.decode(tokens[:room])
            text = self.triggers.around(text, vocabulary)
        return self._answer(text)

    def own_prompt(self, family: str, prompt: str | None, otherwise: str) -> str:
        """Return the prompt asked for, else the triggers', else another.

        UserError when there is a prompt beside triggers, or these are of another family.
        """
        if not self.triggers:
            return prompt or otherwise
        if prompt:
            raise UserError(f"prompt {prompt!r}: found it beside triggers, expected either")
        if self.triggers.family != family:
            raise UserError(f"triggers: found a {self.triggers.family} prompt, expected {family}")
        return PROMPT_ID

    def _answer(self, text: str) -> str:
        vocabulary = self.run.vocabulary
        tokens = place_rows(self.run.params, padded(self._tokens([text])))
        answers, _ = beam_search(self.run.model, self.run.params, tokens, max_length=64, beam=4)
        return vocabulary.decode(to_host(answers)[0, 0].tolist())

    def _template(self, prompt: str, fields: set[str], target: str) -> PromptTemplate:
        """Return a prompt that these fields fill and that asks for `target`."""
        templates = self._templates
        usable = [
            t.id
            for t in templates.values()
            if set(t.fields) <= fields and target in t.target_fields
        ]
        here = f"usable here: {', '.join(usable)}"
        if prompt not in templates:
            raise UserError(f"prompt {prompt!r}: not in this run; {here}")
        if prompt not in usable:
            extra = sorted(set(templates[prompt].fields) - fields)
            wrong = f"needs {extra[0]}" if extra else f"does not ask for the {target}"
            raise UserError(f"prompt {prompt!r} {wrong}; {here}")
        return templates[prompt]

    @cached_property
    def _fields(self) -> Fields:
        words = self.triggers.user_words(self.run.vocabulary) if self.triggers else ()
        return Fields(self.run.dataset, words)

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

    def _tokens(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the texts' tokens with their end of sequence, cut to the run's longest."""
        vocabulary, longest = self.run.vocabulary, self.run.family_config.max_source
        return [[*vocabulary.encode(text)[: longest - 1], vocabulary.eos_id] for text in texts]
