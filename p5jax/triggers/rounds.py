"""The rounds of a search; epochs of shared tokens and of users' own tokens alternate."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from p5jax.runs.run import Run
from p5jax.triggers.moves import shared_token_move, user_tokens_move
from p5jax.triggers.problem import Problem
from p5jax.triggers.settings import SearchConfig
from p5jax.triggers.state import SearchState


class Rounds:
    """A search, from the start or from a saved state; UserError for settings that do not fit.

    problem: what it does not change; state: what changes in a round.
    """

    def __init__(self, run: Run, config: SearchConfig, state: SearchState | None = None):
        self.problem = Problem(run, config)
        self.state = state or SearchState.start(self.problem.initial_prompt())
        # Both follow from the state, and take long to compute.
        self._values: np.ndarray | None = None
        self._gradients: np.ndarray | None = None

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the last ones changed nothing."""
        config = self.problem.config
        return self.state.epoch >= config.epochs or self.state.idle >= config.patience

    def advance(self) -> dict[str, Any]:
        """Do one round and return its record."""
        started = time.monotonic()
        problem, state, prompt = self.problem, self.state, self.state.prompt
        if self._values is None:
            self._values = problem.values(prompt)
        if state.users_turn:
            if self._gradients is None:
                self._gradients = problem.gradients(prompt, problem.evidence).users
            move = user_tokens_move(
                problem, prompt, self._values, state.round, self._gradients, state.tried
            )
            self.state = state.after_users(move.slot, move.accepted)
        else:
            move = shared_token_move(problem, prompt, self._values, state.round)
            self.state = state.after_shared(move.accepted)
        self._values = move.values
        if move.accepted is not None:
            self._gradients = None
        return {
            "round": state.round + 1,
            "epoch": state.epoch + 1,
            **move.to_json(),
            "value": float(move.values[problem.judging].mean()),
            "seconds": round(time.monotonic() - started, 2),
        }
