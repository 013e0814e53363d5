"""Shares of a work that independent jobs do, and whether all of them are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p5jax.core.errors import UserError, shown


@dataclass(frozen=True)
class Shard:
    """One of `count` equal shares of a work, numbered from 1."""

    number: int
    count: int

    @staticmethod
    def read(text: str) -> Shard:
        """Read a text such as 2/4; UserError when it is none."""
        number, sign, count = text.partition("/") if isinstance(text, str) else ("", "", "")
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


def each_once(folders: Sequence[Path], shards: Sequence[Shard], command: str) -> list[int]:
    """Return the positions of the folders in the order of their shards, of one count and each once.

    UserError when one is missing, naming the `command` that makes it, or there twice.
    """
    found: dict[int, int] = {}
    for place, shard in enumerate(shards):
        other = found.setdefault(shard.number, place)
        if other != place:
            raise UserError(f"{folders[place]}: found shard {shard}, as {folders[other]} has it")
    count = shards[0].count
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in found]
    if missing:
        there = ", ".join(f"{number}/{count}" for number in sorted(found))
        raise UserError(
            f"merge: shard {', '.join(missing)} is missing, found {there}; {command} --shard"
            f" {missing[0]} makes it"
        )
    return [found[number] for number in sorted(found)]
