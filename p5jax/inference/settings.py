"""How the catalogue is ranked: the options of every ranking and their defaults, without jax."""

from __future__ import annotations

from dataclasses import dataclass, field

from p5jax.core.errors import UserError, at_least

METHODS = ("certified", "exact", "beam")


@dataclass(frozen=True)
class RankingConfig:
    """How the catalogue is searched for the best items of a user; see inference.ranking.rank."""

    method: str = field(
        default="certified",
        metadata={"help": "how the catalogue is searched", "choices": METHODS},
    )
    beam: int = field(default=64, metadata={"help": "width of the search"})
    exact: bool = field(
        default=False,
        metadata={"help": "widen a certified search until every list is guaranteed"},
    )

    def __post_init__(self) -> None:
        at_least(self, {"beam": 1})
        if self.method not in METHODS:
            raise UserError(f"method: found {self.method!r}, expected {', '.join(METHODS)}")
        if self.exact and self.method == "beam":
            raise UserError("exact: found it with method beam, expected method certified or exact")
