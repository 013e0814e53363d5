"""The options of recommendations and their defaults, without jax."""

from __future__ import annotations

from dataclasses import dataclass, field

from p5jax.core.settings import SIZE, check
from p5jax.inference.settings import RankingConfig


@dataclass(frozen=True)
class BulkConfig(RankingConfig):
    """What is recommended to each user.

    method, beam, exact: how the catalogue is ranked. Without prompts it is the one of the
    triggers, or else the first that an evaluation shows (L-1 or 2-3). Of several the probabilities
    are averaged.
    """

    k: int = field(default=10, metadata={"help": "items for a user"})
    prompts: tuple[str, ...] = ()
    exclude_history: bool = field(
        default=True, metadata={"help": "leave out what the user already has (default: yes)"}
    )
    batch_size: int = field(default=16, metadata={"help": "users at a time, on all devices"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, k=SIZE, batch_size=SIZE)


BULK_DEFAULTS = BulkConfig()
