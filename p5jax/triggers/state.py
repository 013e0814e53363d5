"""What a search knows between two rounds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from p5jax.triggers.layout import Layout
from p5jax.triggers.prompt import Progress, TriggerPrompt


@dataclass(frozen=True)
class SearchState:
    """The tokens so far, and how far the search is.

    round, epoch: how many are done; left: rounds left of the present epoch, 0 between two epochs;
    changed: whether this epoch changed a token; idle: epochs in a row that did not. tried: by user
    slot, the rounds since any token changed, each of which tries the next best tokens.
    """

    prompt: TriggerPrompt
    round: int = 0
    epoch: int = 0
    left: int = 0
    idle: int = 0
    changed: bool = False
    tried: tuple[int, ...] = ()

    @staticmethod
    def start(prompt: TriggerPrompt) -> SearchState:
        """The state before the first round."""
        return SearchState(prompt, tried=(0,) * prompt.layout.user_tokens)

    @staticmethod
    def from_json(progress: Progress, prompt: TriggerPrompt) -> SearchState:
        """The state whose `to_json` and tokens were saved."""
        fields: dict[str, Any] = {**progress, "tried": tuple(progress["tried"])}
        return SearchState(prompt, **fields)

    def to_json(self) -> Progress:
        """All but the tokens, which are saved as a prompt."""
        return {
            "round": self.round,
            "epoch": self.epoch,
            "left": self.left,
            "idle": self.idle,
            "changed": self.changed,
            "tried": list(self.tried),
        }

    @property
    def users_turn(self) -> bool:
        """Whether the round that follows changes users' own tokens."""
        layout = self.prompt.layout
        return layout.user_tokens > 0 and (self.epoch % 2 == 1 or not layout.task_tokens)

    def after_shared(self, accepted: TriggerPrompt | None) -> SearchState:
        """The state after a round of shared tokens that led to other tokens, or to none."""
        return self._after(accepted, self.tried)

    def after_users(self, slot: int, accepted: TriggerPrompt | None) -> SearchState:
        """The state after a round of users' tokens in `slot` of theirs."""
        tried = (*self.tried[:slot], self.tried[slot] + 1, *self.tried[slot + 1 :])
        return self._after(accepted, tried)

    def _after(self, accepted: TriggerPrompt | None, tried: tuple[int, ...]) -> SearchState:
        begins = self.left == 0
        left = (_rounds(self.prompt.layout, self.users_turn) if begins else self.left) - 1
        changed = accepted is not None or (self.changed and not begins)
        after = replace(self, round=self.round + 1, left=left, changed=changed, tried=tried)
        if accepted is not None:
            after = replace(after, prompt=accepted, tried=(0,) * len(tried))
        if left == 0:
            idle = 0 if changed else self.idle + 1
            after = replace(after, epoch=self.epoch + 1, idle=idle)
        return after


def _rounds(layout: Layout, users_turn: bool) -> int:
    return layout.user_tokens if users_turn else layout.task_tokens
