"""The split by time: two moments, the same for all users, before and from which rows are held out.

Training is what was before the first, validation what was before the second, the test the rest. All
rows of one time are on one side: those of a cut itself come after it.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from p5jax.core.errors import UserError, shown

if TYPE_CHECKING:
    import numpy as np

LEAVE_ONE_OUT = "leave-one-out"
Cuts = tuple[int, int]
_EXPECTED = f"{LEAVE_ONE_OUT}, shares as time:.8/.1/.1 or moments as time:2016-01-01,2016-07-01"
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
POSITION = "position"  # the unit of times that are none: the order of a source's rows
PER_SECOND = {"second": 1, "millisecond": 10**3, "microsecond": 10**6, "nanosecond": 10**9}
_PARTS = ("training", "validation", "test")


@dataclass(frozen=True)
class TimeSplit:
    """Where time is cut: at shares of the interactions, or at moments that are given.

    shares: of training, validation and test, together 1. moments: two dates, or numbers in the
    unit of the source; one of the two fields is empty.
    """

    shares: tuple[float, ...] = ()
    moments: tuple[str, ...] = ()

    @staticmethod
    def read(text: str) -> TimeSplit | None:
        """Read an option, None for leave-one-out; UserError for what is neither."""
        if text == LEAVE_ONE_OUT:
            return None
        kind, _, rest = text.partition(":")
        shares, moments = rest.split("/"), tuple(part.strip() for part in rest.split(","))
        if kind == "time" and len(shares) == 3:
            numbers = tuple(map(_share, shares))
            if math.isclose(sum(numbers), 1, abs_tol=1e-9) and min(numbers) > 0:
                return TimeSplit(shares=numbers)
            raise UserError(
                f"split: found {shown(text)}, expected three shares above 0, together 1"
            )
        if kind == "time" and len(moments) == 2 and all(map(_is_moment, moments)):
            return TimeSplit(moments=moments)
        raise UserError(f"split: found {shown(text)}, expected {_EXPECTED}")

    def cuts(self, timestamp: np.ndarray, unit: str) -> Cuts:
        """Return the two cuts of interactions with these times [N], in their unit.

        UserError when the source has no times, does not tell dates, or a part would be empty.
        """
        if unit == POSITION:
            raise UserError("split: found a source without times, expected some to split by")
        if self.moments:
            first, second = (_moment(text, unit) for text in self.moments)
        else:
            ascending, last = timestamp.copy(), len(timestamp) - 1
            ascending.sort()
            ends = self.shares[0], self.shares[0] + self.shares[1]
            first, second = (int(ascending[min(round(end * (last + 1)), last)]) for end in ends)
        if self.moments and first >= second:
            raise UserError(
                f"split: found {', '.join(self.moments)}, expected the earlier one first"
            )
        before = [int((timestamp < cut).sum()) for cut in (first, second)]
        sizes = (before[0], before[1] - before[0], len(timestamp) - before[1])
        for part, size in zip(_PARTS, sizes, strict=True):
            if size <= 0:
                found = ", ".join(f"{name} {n:,}" for name, n in zip(_PARTS, sizes, strict=True))
                where = f"cuts at {in_words(first, unit)} and {in_words(second, unit)}"
                raise UserError(
                    f"split: found no {part} rows ({found}) with {where}, expected some"
                )
        return first, second


def in_words(time: int, unit: str) -> str:
    """Return a time as a date of UTC where its unit tells dates, else as the number."""
    if unit not in PER_SECOND:
        return f"{time:,}"
    seconds = time // PER_SECOND[unit]
    try:
        moment = _EPOCH + datetime.timedelta(seconds=seconds)
    except OverflowError:
        return f"{time:,}"
    return f"{moment:%Y-%m-%d}" if seconds % 86_400 == 0 else f"{moment:%Y-%m-%d %H:%M:%S}"


def split_entry(cuts: Cuts | None, unit: str) -> dict[str, Any]:
    """Return what a manifest says of a split; without cuts it is leave-one-out."""
    if cuts is None:
        return {"split": "leave-one-out by time, ties in source order; reviews follow their pair"}
    first, second = (in_words(cut, unit) for cut in cuts)
    sentence = f"training before {first}, validation before {second}, test from then on"
    return {"split": f"by time: {sentence}; reviews follow their pair", "cuts": list(cuts)}


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _is_moment(text: str) -> bool:
    try:
        _moment(text, "second")
    except (ValueError, OverflowError):
        return False
    return True


def _moment(text: str, unit: str) -> int:
    """A cut in a unit of time, from a date, which without a zone is one in UTC, or a number."""
    if text.removeprefix("-").isdecimal() and text.isascii():
        return int(text)
    moment = datetime.datetime.fromisoformat(text)
    if unit not in PER_SECOND:
        raise UserError(
            f"split: found {shown(text)}, but this source does not tell dates (its times are in"
            f" {unit}), expected shares or numbers such as its times"
        )
    moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
    passed = moment - _EPOCH
    microseconds = (passed.days * 86_400 + passed.seconds) * 10**6 + passed.microseconds
    return -(-microseconds * PER_SECOND[unit] // 10**6)  # the first time of the unit from then on
