"""The base of all families: an example, the sampling parameters, and shared data."""

from __future__ import annotations

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NoReturn, Self

import numpy as np

from p5jax.core.errors import UserError, nearest
from p5jax.core.settings import COUNT, SHARE, SIZE, check
from p5jax.data.dataset import Dataset
from p5jax.prompts.fields import Fields, prompt_text
from p5jax.prompts.negatives import Neighbours
from p5jax.prompts.sampling import draw_candidates, draw_negatives, example_rng
from p5jax.prompts.stars import KnownStars
from p5jax.prompts.template import (
    HISTORY_SEPARATORS,
    LIST_END,
    PromptTemplate,
    Renderer,
    TextEncoder,
)


@dataclass(frozen=True)
class Example:
    """One prompt with its answer.

    `item` is the target, or the item a yes/no prompt asks about. `candidates` [C] int32 are the
    items that the prompt lists or that an evaluation ranks. `answer` is the target without jitter:
    whole stars as a float, the explanation, headline or word; None where it is an item.
    `listed` is the number of items that are asked for by a list of items (0: the answer is no
    list); `given` is the beginning of the targets that is known beforehand: training has no loss
    there, and ranking goes on from it.
    """

    family: str
    prompt_id: str
    user: int
    item: int
    inputs: str
    targets: str
    candidates: np.ndarray | None
    answer: float | str | None
    given: str = ""
    listed: int = 0


@dataclass(frozen=True)
class FamilyConfig:
    """Parameters of P5's sampling, and what goes beyond it.

    `max_source` counts tokens, end-of-sequence included; `max_history` 0 caps histories by tokens
    only; `evaluation_seed` freezes candidate lists.
    prefixes: an epoch of the sequential family holds each training interaction but a user's first
    once as the target, after all before it; else `sequential_per_user` of P5's random windows.
    hard_negatives: the share of training negatives that others have beside the user's own items;
    the rest are uniform over the catalogue, as all of an evaluation are.
    repeat: how many of the history's last items begin the answer of a prompt for an item, so that
    the decoder starts from them. horizon: how many of the next items are its answer in training.
    """

    max_source: int = 512
    num_candidates: int = 100
    sequential_per_user: int = 20
    direct_per_user: int = 15
    max_history: int = 0
    jitter: bool = True
    evaluation_seed: int = 0
    prefixes: bool = False
    repeat: int = 0
    horizon: int = 1
    hard_negatives: float = 0.0

    def __post_init__(self) -> None:
        sizes = ("max_source", "num_candidates", "sequential_per_user", "direct_per_user")
        check(
            self,
            **dict.fromkeys((*sizes, "horizon"), SIZE),
            max_history=COUNT,
            repeat=COUNT,
            hard_negatives=SHARE,
        )


class ExampleSource:
    """What all families of one dataset share."""

    def __init__(
        self,
        dataset: Dataset,
        vocabulary: TextEncoder,
        config: FamilyConfig,
        triggers: Sequence[str] = (),
    ):
        self.dataset = dataset
        self.config = config
        self.fields = Fields(dataset, triggers)
        self.renderer = Renderer(vocabulary, config.max_source)
        longest = int(np.diff(dataset.offsets).max(initial=0))
        # One length for all users, so that candidates stack; shorter only in a tiny catalogue.
        self.num_candidates = min(config.num_candidates, dataset.num_items - longest + 1)

    def with_max_source(self, max_source: int) -> ExampleSource:
        """Return the same source with inputs of at most `max_source` tokens."""
        other = copy.copy(self)
        other.config = replace(self.config, max_source=max_source)
        other.renderer = Renderer(self.renderer.vocabulary, max_source)
        return other

    def history(self, items: np.ndarray, separator: str) -> dict[str, Any]:
        """Return the placeholders that a history fills, cut to its last `max_history` items."""
        return self.fields.history(items[-self.config.max_history :], separator)  # 0 keeps all

    @cached_property
    def known_stars(self) -> KnownStars:
        """The stars that training knows."""
        return KnownStars(self.dataset)

    @cached_property
    def item_end(self) -> str:
        """What ends an item in a list of items: nothing where no id is the beginning of another."""
        encode = self.renderer.vocabulary.encode
        ids = sorted(tuple(encode(text)) for text in self.dataset.item_ids)
        clash = any(two[: len(one)] == one for one, two in pairwise(ids))
        return LIST_END if clash else ""

    @cached_property
    def ended_ids(self) -> list[str]:
        """The id of each item as lists write it, with what ends it."""
        return [self.ended([id]) for id in self.dataset.item_ids]

    def ended(self, ids: Sequence[str]) -> str:
        """Return a list of ids, each with what ends it."""
        return " ".join(f"{id} {self.item_end}".rstrip() for id in ids)

    def listed(self, items: np.ndarray) -> str:
        """Return a list of items."""
        return " ".join(self.ended_ids[item] for item in items.tolist())

    def can_say(self, template: PromptTemplate) -> bool:
        """Whether the dataset has what a prompt says of an item: without any title, a prompt that
        says one says nothing."""
        return "title" not in template.fields or self._titled

    @cached_property
    def _titled(self) -> bool:
        return any(prompt_text(title) for title in self.dataset.titles)

    def identity(self) -> dict[str, Any]:
        """Return, JSON-able, what decides the examples but for vocabulary and templates."""
        return {"dataset": self.dataset.fingerprint, "family_config": asdict(self.config)}

    def rng(self, split: str, purpose: str, user: int, ordinal: int = 0) -> np.random.Generator:
        """Return the random stream of an evaluation, the same for every model and prompt.

        ordinal: which of the user's rows in the split is asked about.
        """
        return example_rng(self.config.evaluation_seed, ordinal, f"{split}/{purpose}", user)

    def frozen_candidates(self, split: str, user: int) -> np.ndarray:
        """Return the candidates [C] of a held-out pair, the true item at a random position."""
        rng = self.rng(split, "candidates", user)
        return self.candidates(split, user, self.dataset.target(user, split), rng)

    def candidates(
        self, split: str, user: int, positive: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Return candidates [C]: `positive` and items that are not the user's, as `split` knows."""
        known, count = self._known(split, user), self.num_candidates
        hard = self._hard_negatives(split, known, count - 1, rng)
        return draw_candidates(rng, self.dataset.num_items, known, positive, count, hard)

    def negative(self, split: str, user: int, rng: np.random.Generator) -> int:
        """Return an item that is not the user's, as `split` knows."""
        known = self._known(split, user)
        for item in self._hard_negatives(split, known, 1, rng):
            return item
        return draw_negatives(rng, self.dataset.num_items, set(known.tolist()), 1)[0]

    def _hard_negatives(
        self, split: str, known: np.ndarray, count: int, rng: np.random.Generator
    ) -> list[int]:
        """Return the hard ones of `count` negatives, in training only."""
        share = self.config.hard_negatives
        if split != "train" or not share:
            return []
        hard = int(rng.binomial(count, share))
        return self._neighbours.sample(rng, known, set(known.tolist()), hard)

    @cached_property
    def _neighbours(self) -> Neighbours:
        return Neighbours(self.dataset)

    def _known(self, split: str, user: int) -> np.ndarray:
        """Return the items that are not negatives of a user.

        P5 excludes the held-out items in training too. They are then the only items that are never
        answered "no", and counting training negatives reveals them: HR@10 .98 on Musical
        Instruments after four epochs. So training negatives exclude training interactions only.
        """
        if split == "train":
            return self.dataset.history(user, split)
        return self.dataset.sequence(user)


class Family(ABC):
    """One family's examples by (split, index); a split is "train", "validation" or "test"."""

    name: str

    def __init__(self, source: ExampleSource, templates: Mapping[str, PromptTemplate]):
        self.source = source
        self.templates = {id: t for id, t in templates.items() if t.family == self.name}
        self.seen = tuple(t for t in self.templates.values() if t.seen and source.can_say(t))

    @classmethod
    def lack(cls, source: ExampleSource) -> str | None:
        """Return what the data lack for this family's examples, or None."""
        return None

    def with_max_source(self, max_source: int) -> Self:
        """Return the same family with inputs of at most `max_source` tokens."""
        other = copy.copy(self)
        other.source = self.source.with_max_source(max_source)
        return other

    @property
    def templates_fingerprint(self) -> str:
        """SHA-256 of the prompts that training samples from."""
        prompts = json.dumps([asdict(template) for template in self.seen])
        return hashlib.sha256(prompts.encode()).hexdigest()

    @abstractmethod
    def size(self, split: str, prompt_id: str | None = None) -> int:
        """Return the number of a split's examples, or of those that have what one prompt needs."""

    @abstractmethod
    def users(self, split: str, prompt_id: str | None = None) -> np.ndarray:
        """Return the user of each example of a split: int [size]."""

    @abstractmethod
    def example(
        self,
        split: str,
        index: int,
        rng: np.random.Generator | None = None,
        prompt_id: str | None = None,
    ) -> Example:
        """Return an example; without `prompt_id`, of a seen prompt sampled uniformly.

        Training samples from `rng` (see `example_rng`). Validation and test ignore it: their
        samples are fixed by (evaluation_seed, split, user), and by the record.
        """

    def lists(self, prompt_id: str) -> bool:
        """Whether a prompt's answer is a list of items, as `source.ended_ids` writes them."""
        return False

    def given(self, prompt_id: str, history: np.ndarray) -> str:
        """Return the beginning of a prompt's answer that a user's history says, a list or ""."""
        return ""

    def template(self, prompt_id: str) -> PromptTemplate:
        """Return the family's template of that id; UserError naming the nearest when unknown."""
        if prompt_id not in self.templates:
            near = nearest(prompt_id, self.templates)
            raise UserError(f"prompts: {prompt_id!r} is not a {self.name} prompt{near}")
        return self.templates[prompt_id]

    def inputs_for(
        self,
        prompt_id: str,
        target: str,
        user: int,
        *,
        item: int | None = None,
        history: np.ndarray | None = None,
        feature: str | None = None,
    ) -> str:
        """Return the inputs that a held-out example has, for what is known of a user.

        `item` is what the prompt is about, and `feature` the word it asks for; `history` the user's
        items, oldest first. UserError naming the prompts usable here when this one is not of the
        family, needs more than is given or does not ask for `target`.
        """
        fields = self.source.fields
        known = fields.of_user(user) if item is None else fields.of(user, item)
        if history is not None:
            known |= self.source.history(history, HISTORY_SEPARATORS[0])
        if feature is not None:
            known["feature"] = prompt_text(feature)
        usable = {
            id
            for id, template in self.templates.items()
            if set(template.fields) <= set(known) and target in template.asks_for
        }
        if prompt_id not in usable:
            self._refuse(prompt_id, target, set(known), usable)
        return self.source.renderer.inputs(self.templates[prompt_id], known)

    def _refuse(
        self, prompt_id: str, target: str, known: Collection[str], usable: Collection[str]
    ) -> NoReturn:
        """Say why a prompt cannot be used, and which can."""
        if prompt_id not in self.templates:
            wrong = f": not a {self.name} prompt of this run"
        else:
            lacking = [n for n in self.templates[prompt_id].fields if n not in known]
            wrong = f" needs {lacking[0]}" if lacking else f" does not ask for the {target}"
        raise UserError(f"prompt {prompt_id!r}{wrong}; usable here: {', '.join(sorted(usable))}")

    def _stream(
        self, split: str, user: int, rng: np.random.Generator | None, ordinal: int = 0
    ) -> np.random.Generator:
        if split != "train":
            return self.source.rng(split, self.name, user, ordinal)
        if rng is None:
            raise ValueError("training examples need an rng")
        return rng

    def _example(
        self,
        template: PromptTemplate,
        user: int,
        item: int,
        fields: dict[str, Any],
        answer: float | str | None,
        candidates: np.ndarray | None = None,
        **listed: Any,
    ) -> Example:
        inputs, targets = self.source.renderer.render(template, fields)
        about = self.name, template.id, user, item
        return Example(*about, inputs, targets, candidates, answer, **listed)
