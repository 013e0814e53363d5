"""How the catalogue is ranked: the options of every ranking and their defaults, without jax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from p5jax.core.errors import UserError
from p5jax.core.settings import SIZE, check


@dataclass(frozen=True)
class Method:
    """How one method searches the trie of the ids.

    complete: it begins with every node and ends when every list is guaranteed. textbook: it is a
    beam search of one token a step, which guarantees nothing.
    """

    complete: bool = False
    textbook: bool = False


METHODS: Mapping[str, Method] = {
    "certified": Method(),
    "exact": Method(complete=True),
    "beam": Method(textbook=True),
}


@dataclass(frozen=True)
class RankingConfig:
    """How the catalogue is searched for the best items of a user; see inference.ranking.rank."""

    method: str = field(
        default="certified",
        metadata={"help": "how the catalogue is searched", "choices": tuple(METHODS)},
    )
    beam: int = field(default=64, metadata={"help": "width of the search"})
    exact: bool = field(
        default=False,
        metadata={"help": "widen a certified search until every list is guaranteed"},
    )
    memory: bool = field(
        default=True,
        metadata={"help": "mix in the run's memory, where p5jax memory has chosen one"},
    )

    def __post_init__(self) -> None:
        check(self, method=METHODS, beam=SIZE)
        if self.exact and METHODS[self.method].textbook:
            known = " or ".join(name for name, each in METHODS.items() if not each.textbook)
            raise UserError(f"exact: found it with method {self.method}, expected method {known}")
