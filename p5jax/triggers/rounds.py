"""The rounds of a search: one position, its best candidates, and only what a test supports.

The model is frozen. A round's gradient comes from training examples, its candidates compete on one
half of the validation users, and the winner is taken when a paired test over the other half says
so. User tokens change in rounds of their own, each user to an own token.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from p5jax.core.errors import UserError
from p5jax.evaluation.task import chosen_indices
from p5jax.parallel.placing import place_rows, to_host
from p5jax.prompts.families import Example, example_rng, make_families
from p5jax.runs.run import Run
from p5jax.triggers import prompt as saved
from p5jax.triggers.examples import Examples, tokenised
from p5jax.triggers.gradients import Gradients, add_gradients, best_tokens, slot_gradients
from p5jax.triggers.initial import initial_tokens
from p5jax.triggers.layout import PROMPT_ID, Layout, arguments_template
from p5jax.triggers.personalize import choose_for_users
from p5jax.triggers.prompt import TriggerPrompt
from p5jax.triggers.race import p_value, race
from p5jax.triggers.surrogate import Surrogate, SurrogateConfig

_GRADIENT_BATCH = 16
_RACING_BATCHES = 8
_MAX_TARGET = 64


@dataclass(frozen=True)
class SearchConfig:
    """What is searched for, and how hard.

    initial: "random", the id of a prompt whose words are taken, or words. candidates: per position
    and round. epochs: a task epoch has as many rounds as there are task tokens, an epoch of user
    tokens as many as a user has; they alternate. patience: epochs without a change after which the
    search ends. users: at most so many validation users (0: all). gradient_examples: of a task
    round. evidence: training examples of each user, of different items, for the user tokens.
    accept_level: a change needs a one-sided p of at most this on the selection half; 1 takes any
    improvement on the whole validation split, as the paper does. racing_level: of the test that
    drops candidates early; 0 scores every candidate on every example.
    """

    family: str
    layout: Layout = field(default_factory=Layout)
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    initial: str = "random"
    candidates: int = 5
    epochs: int = 20
    patience: int = 4
    users: int = 0
    gradient_examples: int = 256
    evidence: int = 3
    accept_level: float = 0.1
    racing_level: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"candidates": 1, "epochs": 1, "patience": 1, "users": 0}
        least |= {"gradient_examples": 1, "evidence": 1, "seed": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise UserError(f"{name}: found {getattr(self, name)}, expected {bound} or more")
        if not 0 <= self.accept_level <= 1:
            raise UserError(f"accept_level: found {self.accept_level}, expected 0 to 1")
        if not 0 <= self.racing_level < 0.5:
            raise UserError(f"racing_level: found {self.racing_level}, expected 0 to below 0.5")
        arguments_template(self.family)

    @property
    def any_improvement(self) -> bool:
        """Whether a change needs no test, as in the paper."""
        return self.accept_level == 1


class Rounds:
    """A search between two rounds: the tokens so far and the frozen examples they are tried on."""

    def __init__(self, run: Run, config: SearchConfig):
        if config.family not in run.manifest["families"]:
            raise UserError(f"family: this run was not trained on {config.family}")
        self.run, self.config, self.layout = run, config, config.layout
        longest = run.family_config.max_source - self.layout.slots
        self.family = make_families(
            run.dataset,
            {PROMPT_ID: arguments_template(config.family)},
            run.vocabulary,
            replace(run.family_config, max_source=longest),
            (config.family,),
        )[config.family]
        self.validation = self._validation()
        self.surrogate = Surrogate(run, config.family, config.surrogate)
        self.allowed = run.vocabulary.trigger_tokens
        self.embeddings = run.params["token_embedder"]["embedding"]
        words = int(self.allowed.sum())
        if config.candidates >= words:
            raise UserError(
                f"candidates: found {config.candidates}, expected fewer than the {words} words of"
                " the vocabulary"
            )
        self.search_half = self._search_half()
        if not config.any_improvement and self.search_half.all():
            raise UserError("users: found one validation user, expected 2 or accept_level 1")
        self.identity = saved.identity(run)
        tokens = initial_tokens(run, self.layout, config.initial, config.seed)
        self.task, self.default = (
            tokens[: self.layout.task_tokens],
            tokens[self.layout.task_tokens :],
        )
        self.users = np.tile(self.default, (run.dataset.num_users, 1))
        self.round = self.epoch = self.idle = self.left = 0  # left: rounds of this epoch
        self.changed = False  # in this epoch
        # By user slot, the rounds since a token last changed: each tries the next best tokens.
        self.tried = [0] * self.layout.user_tokens
        self._values: np.ndarray | None = None
        self._evidence_gradients: np.ndarray | None = None

    @property
    def judging(self) -> np.ndarray:
        """The validation examples that no candidate was chosen by, if there are any: bool [N]."""
        everyone = self.config.any_improvement or not self.layout.task_tokens
        return np.full(len(self.validation), True) if everyone else ~self.search_half

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the last ones changed nothing."""
        return self.epoch >= self.config.epochs or self.idle >= self.config.patience

    def advance(self) -> dict[str, Any]:
        """One round; epochs of task tokens and of user tokens alternate."""
        started = time.monotonic()
        layout = self.layout
        own = layout.user_tokens and (self.epoch % 2 == 1 or not layout.task_tokens)
        if self.left == 0:
            self.left, self.changed = layout.user_tokens if own else layout.task_tokens, False
        record: dict[str, Any] = {"round": self.round + 1, "epoch": self.epoch + 1}
        record |= self.user_round() if own else self.task_round()
        record["value"] = float(self.values()[self.judging].mean())
        record["seconds"] = round(time.monotonic() - started, 2)
        self.round, self.left = self.round + 1, self.left - 1
        self.changed = self.changed or record["accepted"]
        if self.left == 0:
            self.epoch, self.idle = self.epoch + 1, 0 if self.changed else self.idle + 1
        return record

    def _validation(self) -> Examples:
        size = self.family.size("validation", PROMPT_ID)
        if not size:
            raise UserError(f"family: {self.config.family} has no validation example here")
        indices = chosen_indices(size, self.config.users or None, self.config.seed)
        return self.tokenised(
            [self.family.example("validation", i, prompt_id=PROMPT_ID) for i in indices.tolist()]
        )

    def tokenised(self, examples: list[Example]) -> Examples:
        """Examples of this search's family, with its layout's open places."""
        return tokenised(examples, self.run.vocabulary, self.layout, self.run.dataset, _MAX_TARGET)

    def training_example(self, index: int, epoch: int) -> Example:
        """A training example's arguments; `epoch` decides its draws."""
        rng = example_rng(self.config.seed, epoch, self.config.family, index)
        return self.family.example("train", index, rng, PROMPT_ID)

    def _search_half(self) -> np.ndarray:
        """Which validation examples are of the search half's users: bool [N]."""
        users = np.unique(self.validation.users)
        order = np.random.default_rng([self.config.seed, 1]).permutation(users)
        return np.isin(self.validation.users, order[: -(-len(order) // 2)])

    def slots(self, users: np.ndarray) -> np.ndarray:
        """The trigger tokens of users [n]: [n, P]."""
        task = np.broadcast_to(self.task, (len(users), len(self.task)))
        return np.concatenate([task, self.users[users]], axis=1)

    def values(self) -> np.ndarray:
        """The value of every validation example under the tokens so far: [N]."""
        if self._values is None:
            rows = np.arange(len(self.validation))
            slots = self.slots(self.validation.users)
            self._values = self.surrogate.values(self.validation, rows, slots)
        return self._values

    def gradients(self, examples: Examples) -> Gradients:
        """The loss gradients at the slots, of all examples and of each user's, in one pass."""
        run = self.run
        width = self.embeddings.shape[1]
        shapes = (len(self.task), width), (*self.users.shape, width)
        total = Gradients(*(np.zeros(shape, np.float32) for shape in shapes))
        rows = np.arange(len(examples))
        slots = self.slots(examples.users)
        for places in examples.batches(rows, _GRADIENT_BATCH):
            filled = np.resize(places[places >= 0], len(places))
            prompts = examples.prompts(filled, slots[filled])
            arrays = prompts, examples.places[filled], examples.targets[filled]
            part = slot_gradients(
                run.model, run.params, *(place_rows(run.params, array) for array in arrays)
            )
            owners = np.full(len(part), -1, np.int32)  # rows that fill the batch have none
            owners[: len(places)] = np.where(places >= 0, examples.users[filled], -1)
            total = add_gradients(total, part, owners)
        return to_host(total)

    def candidates(self, gradients: np.ndarray, current: np.ndarray, passed: int = 0) -> np.ndarray:
        """The tokens to try where the gradient is [N, D] and the token is [N]: [N, K], the best
        ones after `passed` times K that were tried before."""
        count = self.config.candidates
        first = passed % ((int(self.allowed.sum()) - 1) // count) * count
        best = best_tokens(gradients, self.embeddings, self.allowed, current, first + count)
        return to_host(best)[:, first:]

    def task_round(self) -> dict[str, Any]:
        """Try to change one task token; returns the round's record."""
        config = self.config
        rng = np.random.default_rng([config.seed, 2, self.round])
        slot = int(rng.integers(self.layout.task_tokens))
        size = self.family.size("train", PROMPT_ID)
        drawn = rng.integers(size, size=min(size, config.gradient_examples)).tolist()
        examples = self.tokenised([self.training_example(i, self.round) for i in drawn])
        gradient = self.gradients(examples).task[[slot]]
        tokens = self.candidates(gradient, self.task[[slot]])[0]
        before = self.values()
        rows = (
            np.arange(len(before)) if config.any_improvement else np.flatnonzero(self.search_half)
        )

        def values(candidates: np.ndarray, places: np.ndarray) -> np.ndarray:
            return self._with_token(slot, tokens[candidates], rows[places])

        # A race of few prompts would fill its batches with padding.
        worthwhile = len(rows) * len(tokens) >= _RACING_BATCHES * config.surrogate.batch_size
        level = config.racing_level if worthwhile and config.racing_level else None
        winner, found, scored = race(values, before[rows], len(tokens), level, rng)
        record: dict[str, Any] = {"kind": "task", "slot": slot, "scored": scored}
        record |= {"candidates": tokens.tolist(), "winner": winner, "accepted": False}
        if winner < 0 or found is None:
            return record
        after = before.copy()
        after[rows] = found
        others = np.setdiff1d(np.arange(len(before)), rows)
        judged = rows
        if len(others):
            token = np.full(len(others), tokens[winner])
            after[others] = self._with_token(slot, token, others)
            record["p_value"] = p_value(after[others] - before[others])
            judged = others  # on the search half the winner is the best of several by luck, too
        record["gain"] = float((after - before)[judged].mean())
        if config.any_improvement or record["p_value"] <= config.accept_level:
            self.task[slot] = tokens[winner]
            self._changed_to(after)
            record["accepted"] = True
        return record

    def _changed_to(self, values: np.ndarray) -> None:
        """Forget what was found out about the tokens before; `values` [N] are the new ones'."""
        self._values = values
        self._evidence_gradients = None
        self.tried = [0] * self.layout.user_tokens

    def _with_token(self, slot: int, tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The values of validation examples `rows` [M] with tokens [M] in one slot."""
        slots = self.slots(self.validation.users[rows])
        slots[:, slot] = tokens
        return self.surrogate.values(self.validation, rows, slots)

    def user_round(self) -> dict[str, Any]:
        """Try to change one token of every user; returns the round's record."""
        config, layout = self.config, self.layout
        rng = np.random.default_rng([config.seed, 2, self.round])
        slot = int(rng.integers(layout.user_tokens))
        users = np.intersect1d(self.validation.users, self.evidence.users)
        if self._evidence_gradients is None:
            self._evidence_gradients = self.gradients(self.evidence).users
        current = self.users[users, slot]
        tokens = self.candidates(self._evidence_gradients[users, slot], current, self.tried[slot])
        self.tried[slot] += 1
        chosen = choose_for_users(self, layout.task_tokens + slot, users, tokens)
        changed = chosen != current
        record: dict[str, Any] = {"kind": "user", "slot": slot, "changed": int(changed.sum())}
        record["accepted"] = False
        if not changed.any():
            return record
        before, users_before = self.values(), self.users
        self.users = self.users.copy()
        self.users[users, slot] = chosen
        rows = np.flatnonzero(np.isin(self.validation.users, users[changed]))
        after = before.copy()
        slots = self.slots(self.validation.users[rows])
        after[rows] = self.surrogate.values(self.validation, rows, slots)
        record["gain"] = float((after - before).mean())
        record["p_value"] = p_value(after - before)
        if config.any_improvement or record["p_value"] <= config.accept_level:
            self._changed_to(after)
            record["accepted"] = True
        else:
            self.users = users_before
        return record

    @property
    def own_examples(self) -> Examples:
        """What users choose their tokens by: their evidence, or the validation split where any
        improvement on it counts."""
        return self.validation if self.config.any_improvement else self.evidence

    @cached_property
    def evidence(self) -> Examples:
        """Training examples of the validation users: at most `evidence` of each, of the last of a
        user's draws, each of another item."""
        owners = self.family.users("train", PROMPT_ID)
        known = np.isin(owners, self.validation.users)
        found: dict[int, dict[int, Example]] = {}
        for row in np.flatnonzero(known)[::-1].tolist():
            own = found.setdefault(int(owners[row]), {})
            if len(own) < self.config.evidence:
                example = self.training_example(row, 0)
                own.setdefault(example.item, example)
        return self.tokenised([example for own in found.values() for example in own.values()])

    def prompt(self) -> TriggerPrompt:
        """The tokens so far as a prompt."""
        return TriggerPrompt(
            self.config.family,
            self.layout,
            self.task,
            self.default,
            self.users,
            self.identity,
        )

    def state(self) -> dict[str, Any]:
        """Where the search is, JSON-able; with the prompt it is all that a later start needs."""
        names = ("round", "epoch", "left", "idle", "changed", "tried")
        return {name: getattr(self, name) for name in names}
