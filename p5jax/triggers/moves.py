"""One round's change: a token that all users share, or one of each user's own.

A shared token's candidates come from the gradient of training examples and compete on one half of
the validation users; the winner is taken when a paired test over the other half supports it. Users'
own tokens are chosen all at once, and the test is over all validation users.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from p5jax.triggers.personalize import choose_for_users
from p5jax.triggers.problem import Problem
from p5jax.triggers.prompt import TriggerPrompt
from p5jax.triggers.race import p_value, race

_RACING_BATCHES = 8


@dataclass(frozen=True)
class Move:
    """What one round tried and what came of it.

    accepted: the prompt with the change, if it was taken; values [N]: of the validation examples
    afterwards. gain: mean gain of the change, and p_value of the test, where there was any.
    Of shared tokens: candidates, winner: index of the best one or -1, scored: prompts. Of users'
    own: changed: users who chose another token.
    """

    kind: str
    slot: int
    values: np.ndarray
    accepted: TriggerPrompt | None = None
    gain: float | None = None
    p_value: float | None = None
    candidates: tuple[int, ...] | None = None
    winner: int | None = None
    scored: int | None = None
    changed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The round's record in the history."""
        record: dict[str, Any] = {"kind": self.kind, "slot": self.slot}
        names = ("scored", "candidates", "winner", "changed", "p_value", "gain")
        record |= {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return record | {"accepted": self.accepted is not None}


def shared_token_move(
    problem: Problem, prompt: TriggerPrompt, before: np.ndarray, round: int
) -> Move:
    """Try to change one task token; before [N]: the validation examples' present values."""
    config = problem.config
    rng = np.random.default_rng([config.seed, 2, round])
    slot = int(rng.integers(config.layout.task_tokens))
    examples = problem.training_sample(round, rng)
    gradient = problem.gradients(prompt, examples).task[[slot]]
    tokens = problem.candidates(gradient, prompt.task[[slot]])[0]
    everyone = np.arange(len(before))
    rows = everyone if config.any_improvement else np.flatnonzero(problem.search_half)

    def values(tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return problem.values_with(prompt, slot, tokens, problem.validation, rows)

    # A race of few prompts would fill its batches with padding.
    worthwhile = len(rows) * len(tokens) >= _RACING_BATCHES * config.surrogate.batch_size
    level = config.racing_level if worthwhile and config.racing_level else None
    winner, found, scored = race(
        lambda candidates, examples: values(tokens[candidates], rows[examples]),
        before[rows],
        len(tokens),
        level,
        rng,
    )
    candidates = tuple(tokens.tolist())
    move = Move("task", slot, before, candidates=candidates, winner=winner, scored=scored)
    if found is None:
        return move
    after = before.copy()
    after[rows] = found
    others = np.setdiff1d(everyone, rows)
    judged, p = rows, None
    if len(others):
        # On the search half the winner is the best of several by luck, too.
        after[others] = values(np.full(len(others), tokens[winner]), others)
        judged, p = others, p_value(after[others] - before[others])
    move = replace(move, gain=float((after - before)[judged].mean()), p_value=p)
    if not (config.any_improvement or (p is not None and p <= config.accept_level)):
        return move
    task = prompt.task.copy()
    task[slot] = tokens[winner]
    return replace(move, values=after, accepted=replace(prompt, task=task))


def user_tokens_move(
    problem: Problem,
    prompt: TriggerPrompt,
    before: np.ndarray,
    round: int,
    gradients: np.ndarray,
    tried: tuple[int, ...],
) -> Move:
    """Try to change one token of every user.

    before [N]: the validation examples' present values; gradients [U, u, D]: of the evidence;
    tried: by user slot, how many rounds have tried their candidates since a change.
    """
    config, layout = problem.config, problem.config.layout
    slot = int(np.random.default_rng([config.seed, 2, round]).integers(layout.user_tokens))
    users = np.intersect1d(problem.validation.users, problem.evidence.users)
    current = prompt.users[users, slot]
    tokens = problem.candidates(gradients[users, slot], current, tried[slot])
    examples = problem.own_examples
    rows = np.flatnonzero(np.isin(examples.users, users))

    def values(own: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        in_prompt = layout.task_tokens + slot
        return problem.values_with(prompt, in_prompt, tokens, examples, rows[own])

    owners = np.searchsorted(users, examples.users[rows])
    chosen = choose_for_users(values, owners, current, tokens, problem.surrogate.least)
    changed = chosen != current
    move = Move("user", slot, before, changed=int(changed.sum()))
    if not changed.any():
        return move
    table = prompt.users.copy()
    table[users, slot] = chosen
    proposed = replace(prompt, users=table)
    moved = np.flatnonzero(np.isin(problem.validation.users, users[changed]))
    after = before.copy()
    after[moved] = problem.values(proposed, moved)
    p = p_value(after - before)
    move = replace(move, gain=float((after - before).mean()), p_value=p)
    if config.any_improvement or p <= config.accept_level:
        return replace(move, values=after, accepted=proposed)
    return move
