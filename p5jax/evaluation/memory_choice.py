"""How a memory is best mixed with a run's model: chosen on validation users, never on test.

A list of ten, by mixed scores, holds only neighbours and the model's own best ten: another item's
mixed score is not above that of any of these ten. So these are scored once, and every mixture is
tried on what is known of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.progress import Report
from p5jax.core.text_table import aligned
from p5jax.evaluation.prompts import next_item_prompt
from p5jax.evaluation.rank_metrics import LIST_LENGTH, ndcg
from p5jax.evaluation.settings import EvaluationConfig
from p5jax.evaluation.task import RunLike, Task, chosen_indices, kind_of
from p5jax.inference.mixing import Mixing
from p5jax.inference.ranking import given_rows, id_trie, rank, score_items
from p5jax.memory.memory import Memory, Neighbours
from p5jax.memory.settings import MemorySettings

SPLIT = "validation"
_TEXT = (0.0, 0.25, 0.5, 0.75, 1.0)
_TEMPERATURES = (1.0, 2 / 3, 0.5)
_MIXTURES = tuple(Mixing("mixture", weight / 10) for weight in range(1, 10))
_PRODUCTS = tuple(
    Mixing("product", weight, floor)
    for weight, floor in product((0.1, 0.2, 0.3, 0.5, 0.7, 1.0), (1e-5, 1e-4, 1e-3, 1e-2))
)
ALONE = MemorySettings(mixing=Mixing("mixture", 0.0))  # the model


@dataclass(frozen=True)
class Known:
    """What is known of users' next items before any mixture is chosen.

    near: neighbours [U, M], near_logp [U, M] the model's log-probabilities of them. best, best_logp
    [U, 10]: the model's own list. targets [U].
    """

    near: Neighbours
    near_logp: np.ndarray
    best: np.ndarray
    best_logp: np.ndarray
    targets: np.ndarray

    def ranks(self, settings: MemorySettings) -> np.ndarray:
        """Return the 0-based ranks of the targets [U] by mixed scores, inf of those not known."""
        near_score = settings.mixing.scores(self.near_logp, self.near.shares(settings))
        twice = (self.best[:, :, None] == self.near.items[:, None, :]).any(axis=2)
        alone = np.where(twice, -np.inf, self.best_logp)
        best_score = settings.mixing.scores(alone, 0.0)
        allowed = np.concatenate([np.isfinite(self.near_logp), np.isfinite(alone)], axis=1)
        items = np.concatenate([self.near.items, self.best], axis=1)  # [U, M+10]
        scores = np.concatenate([near_score, best_score], axis=1)
        scores = np.where(allowed, scores, -np.inf)
        own = np.where(items == self.targets[:, None], scores, -np.inf).max(axis=1)
        better = (scores > own[:, None]).sum(axis=1)
        return np.where(np.isfinite(own), better, np.inf)

    def of_users(self, users: np.ndarray) -> Known:
        """Return what is known of some users."""
        near = Neighbours(*(each[users] for each in self.near))
        return Known(
            near,
            self.near_logp[users],
            self.best[users],
            self.best_logp[users],
            self.targets[users],
        )


@dataclass(frozen=True)
class Choice:
    """Settings of a memory and the NDCG@10 of validation users with them."""

    settings: MemorySettings
    ndcg: float


@dataclass(frozen=True)
class Choices:
    """The prompt and the number of users that were asked; the best of each rule, the model first.

    `best` is the best of all: the model alone where no mixture is better.
    """

    prompt: str
    users: int
    rows: tuple[Choice, ...]

    @property
    def best(self) -> Choice:
        """The first of the best."""
        return max(self.rows, key=lambda choice: choice.ndcg)


def choose_memory(
    run: RunLike,
    memory: Memory,
    prompt: str | None,
    limit: int,
    config: EvaluationConfig,
    report: Report,
) -> Choices:
    """Choose a memory's settings by NDCG@10 of at most `limit` validation users.

    prompt: of the sequential family, None for its first usual one. UserError for a run without such
    prompts. A run on a mesh wants all its processes to call it.
    """
    run.dataset.refuse_nothing_held_out()
    family = run.families.get("sequential")
    if family is None:
        raise UserError(f"{run.path}: has no sequential prompts, expected some to choose with")
    template = family.template(prompt or next_item_prompt(family))
    if kind_of(template) != "catalogue":
        raise UserError(f"prompt {template.id}: found no prompt that asks for a next item")
    indices = chosen_indices(family.size(SPLIT, template.id), limit, config.seed)
    task = Task(run, family, template, SPLIT, indices, config, report)
    known = known_of(task, memory)
    return Choices(template.id, len(indices), choices_of(known, memory.texts is not None))


def known_of(task: Task, memory: Memory) -> Known:
    """Ask the model of a task's users for its best items and for its opinion of the neighbours."""
    run, config, users = task.run, task.config, list[int]()
    trie = id_trie(task.family, task.template.id, run.vocabulary, config.method, run.params)
    parts: list[tuple[np.ndarray, ...]] = []
    for examples, tokens in task.batches():
        # Rows that fill a last batch repeat a user: an empty prompt could be endless to certify.
        count = len(examples)
        rows = examples + [examples[0]] * (len(tokens) - count)
        tokens[count:] = tokens[0]
        asked = np.array([example.user for example in rows])
        given = given_rows([example.given for example in rows], run.vocabulary)
        left_out = task.histories(asked)
        near = memory.neighbours(task.cases(asked), left_out)
        found = rank(
            run.model,
            run.params,
            tokens,
            trie,
            LIST_LENGTH,
            config.method,
            given=given,
            beam=config.beam,
            exact=config.exact,
            exclude=left_out,
        )
        logp = score_items(run.model, run.params, tokens, trie, near.items, given)
        parts.append(tuple(each[:count] for each in (*near, logp, found.items, found.logp)))
        users += asked[:count].tolist()
    *near_parts, near_logp, best, best_logp = (
        np.concatenate(each) for each in zip(*parts, strict=True)
    )
    targets = task.cases(users).targets()
    return Known(Neighbours(*near_parts), near_logp, best, best_logp, targets)


def choices_of(known: Known, with_texts: bool) -> tuple[Choice, ...]:
    """Return the best of each rule, and first the model alone."""
    total, tried = len(known.targets), known.of_users(np.flatnonzero(_is_known(known)))

    def measured(settings: MemorySettings) -> Choice:
        gain = ndcg(tried.ranks(settings), LIST_LENGTH).sum() / total
        return Choice(settings, float(gain))

    rows = [measured(ALONE)]
    for mixings in (_MIXTURES, _PRODUCTS):
        tries = map(measured, _tries(mixings, _TEXT if with_texts else (0.0,)))
        rows.append(max(tries, key=lambda choice: choice.ndcg))
    return tuple(rows)


def _is_known(known: Known) -> np.ndarray:
    """Whether each target is among the items that are known: no mixture ranks another."""
    there = (known.near.items == known.targets[:, None]).any(axis=1)
    found: np.ndarray = there | (known.best == known.targets[:, None]).any(axis=1)
    return found


def _tries(mixings: tuple[Mixing, ...], texts: tuple[float, ...]) -> Iterator[MemorySettings]:
    for text, temperature in product(texts, _TEMPERATURES):
        settings = MemorySettings(text, temperature)
        yield from (replace(settings, mixing=mixing) for mixing in mixings)


def format_choices(choices: Choices) -> str:
    """The choices as text: a row for the model alone and for the best of each rule."""
    rows = [("", "NDCG@10")]
    for choice in choices.rows:
        label = "model alone" if choice.settings == ALONE else str(choice.settings)
        mark = " (chosen)" if choice is choices.best else ""
        rows.append((label, f"{choice.ndcg:.4f}{mark}"))
    title = f"memory: {choices.users} validation users, prompt {choices.prompt}"
    return "\n  ".join([title, *aligned(rows)])
