"""The options of recommendations and their defaults, without jax."""

from __future__ import annotations

from dataclasses import dataclass, field

from p5jax.core.errors import UserError, shown
from p5jax.core.settings import SIZE, check
from p5jax.inference.settings import RankingConfig


@dataclass(frozen=True)
class BulkConfig(RankingConfig):
    """What is recommended to each user.

    method, beam, exact: how the catalogue is ranked. Without a prompt it is the one of the
    triggers, or else the first that an evaluation shows (L-1 or 2-3).
    """

    k: int = field(default=10, metadata={"help": "items for a user"})
    prompt: str | None = field(default=None, metadata={"help": "the prompt's id", "metavar": "ID"})
    exclude_history: bool = field(
        default=True, metadata={"help": "leave out what the user already has (default: yes)"}
    )
    batch_size: int = field(default=16, metadata={"help": "users at a time, on all devices"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, k=SIZE, batch_size=SIZE)


BULK_DEFAULTS = BulkConfig()


@dataclass(frozen=True)
class Shard:
    """One of `count` equal shares of the parts of a ranking, numbered from 1."""

    number: int
    count: int

    @staticmethod
    def read(text: str) -> Shard:
        """Read a text such as 2/4; UserError when it is none."""
        number, sign, count = text.partition("/")
        digits = all(
            part.isascii() and part.isdigit() and len(part) < 10 for part in (number, count)
        )
        if not sign or not digits or not 1 <= int(number) <= int(count):
            raise UserError(f"shard: found {shown(text)}, expected I/N with I from 1 to N, as 2/4")
        return Shard(int(number), int(count))

    def takes(self, part: int) -> bool:
        """Whether a part, counted from 0, is of this share."""
        return part % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
