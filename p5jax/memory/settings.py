"""How a memory speaks and how it is mixed with the model, as validation users chose it."""

from __future__ import annotations

from dataclasses import dataclass, field

from p5jax.core.settings import SHARE, above, check
from p5jax.inference.mixing import Mixing


@dataclass(frozen=True)
class MemorySettings:
    """What makes neighbours' scores a probability, and its mixture with the model's.

    text: the share of the neighbours by text; the others are those of training sequences.
    temperature: scores are raised to 1 / temperature before they are normalised.
    """

    text: float = 0.0
    temperature: float = 1.0
    mixing: Mixing = field(default_factory=Mixing)

    def __post_init__(self) -> None:
        check(self, text=SHARE, temperature=above(0))

    def __str__(self) -> str:
        mixing = self.mixing
        rule = f"{mixing.rule}, weight {mixing.weight:g}"
        if mixing.rule == "product":
            rule += f", floor {mixing.floor:g}"
        return f"{rule}, temperature {self.temperature:.3g}, {self.text:.0%} by text"
