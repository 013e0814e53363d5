"""Where trigger tokens stand in a prompt: `{task arguments} [T_r1] … [T_rl] [T_u]` (PAP-REC)."""

from __future__ import annotations

from dataclasses import dataclass, field

from p5jax.core.errors import UserError
from p5jax.core.settings import COUNT, check

POSITIONS = ("suffix", "prefix", "both")
USER_PLACES = ("last", "middle", "first")
PROMPT_ID = "triggers"
TRIGGER_FAMILIES = ("sequential", "direct", "explanation")


@dataclass(frozen=True)
class Layout:
    """How many trigger tokens there are and where they stand.

    Slots are numbered task tokens first, in reading order, then the user's.
    """

    task_tokens: int = field(default=5, metadata={"help": "tokens that all users share"})
    user_tokens: int = field(default=0, metadata={"help": "tokens of each user's own"})
    position: str = field(
        default="suffix",
        metadata={
            "help": "where the shared tokens stand: behind the prompt's arguments, before them, or"
            " half of them on either side",
            "choices": POSITIONS,
        },
    )
    user_place: str = field(
        default="last",
        metadata={
            "help": "where a user's own tokens stand: after everything, right behind the prompt's"
            " arguments, or before everything",
            "choices": USER_PLACES,
        },
    )

    def __post_init__(self) -> None:
        check(
            self,
            task_tokens=COUNT,
            user_tokens=COUNT,
            position=POSITIONS,
            user_place=USER_PLACES,
        )
        if not self.slots:
            raise UserError("task_tokens: found no trigger token at all, expected at least one")

    @property
    def slots(self) -> int:
        """The number of trigger tokens of a prompt."""
        return self.task_tokens + self.user_tokens

    @property
    def sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The slots before the arguments and those after them, in reading order."""
        task = tuple(range(self.task_tokens))
        own = tuple(range(self.task_tokens, self.slots))
        ahead = {"suffix": 0, "prefix": len(task), "both": -(-len(task) // 2)}[self.position]
        before, after = task[:ahead], task[ahead:]
        if self.user_place == "first":
            return own + before, after
        return before, (own + after if self.user_place == "middle" else after + own)
