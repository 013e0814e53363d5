"""A column of times: exact and in order, whatever they are written in."""

from __future__ import annotations

import datetime
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context, Decimal, InvalidOperation
from email.utils import parsedate_to_datetime

import numpy as np

from p5jax.core.errors import UserError, shown
from p5jax.data.readers.cells import BadLine, is_missing, said

Time = int | Decimal
DECIMALS = 18  # of a fraction that are kept
LATEST = 2**62
LONGEST = 64  # characters of a time
_EXACT = Context(prec=60)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_UNITS = {"second": 0, "millisecond": 3, "microsecond": 6, "nanosecond": 9}
# A count since 1970 shows its unit by its size: these are the years 1973 to 2286.
_FIRST, _LAST = 10**8, 10**10
_SERIAL_DAYS = (32_874, 62_092)  # spreadsheets' numbers of the days from 1990 to 2069
UNKNOWN = "unknown unit"
_ISO = "date year-month-day"
_SLASHES = "date with slashes or dashes"  # a form, in which month or day is first
EXPECTED = "a number or a date such as 2020-01-31 10:00:00"


@dataclass(frozen=True)
class TimeColumn:
    """Times int64 [N] in `unit`, in which equal and later times stay so; and what they are."""

    values: np.ndarray
    unit: str
    understood: str


class Times:
    """Collects times of one column, all numbers or all dates of one form.

    Numbers are kept to 18 decimals. A date without a zone is one in UTC. Dates such as 1/31/2020
    are month first or day first, whichever all of them can be.
    """

    def __init__(self, unit: str | None = None) -> None:
        """`unit` is what the source counts in, where its format says so."""
        self.declared = unit
        self.whole = array("q")
        self._fraction_rows, self._fractions = array("q"), array("q")  # those that have one
        self._form = ""
        self._day_first: bool | None = None
        self._month_first_rows = 0  # that were read so before a date showed that the day is first
        self._either_way = ""  # says where a date was before that which is another one day first
        self._zones: set[bool] = set()

    def __len__(self) -> int:
        return len(self.whole)

    def append(self, time: Time) -> None:
        """Add the time of the next row."""
        if isinstance(time, Decimal):
            scaled = int(time.scaleb(DECIMALS, _EXACT).to_integral_value(ROUND_FLOOR, _EXACT))
            whole, fraction = divmod(scaled, 10**DECIMALS)
            self._fraction_rows.append(len(self.whole))
            self._fractions.append(fraction)
            self.whole.append(whole)
        else:
            self.whole.append(time)

    def extend(self, times: np.ndarray, zoned: bool | None = None) -> bool:
        """Add the times of the next rows, int64 [N]; False where those so far are other ones.

        zoned: None for numbers, else they are seconds of dates, with a zone or without one.
        """
        form = "number" if zoned is None else _ISO
        if self._form not in ("", form):
            return False
        if len(times):
            self._form = form
            self._zones.update(() if zoned is None else (zoned,))
        self.whole.frombytes(times.tobytes())
        return True

    def parse(self, value: object, field: str) -> Time:
        """Return what a cell says, for `append`; BadLine when it is no time."""
        if type(value) is int and -LATEST < value < LATEST:
            time = value
        elif isinstance(value, str) and len(value) < 19 and value.isdigit() and value.isascii():
            time = int(value)
        else:
            return self._parsed(value, field)
        if self._form != "number":
            self._check_form("number", value, field)
        return time

    def _parsed(self, value: object, field: str) -> Time:
        text = str(value).strip()
        if value is None or is_missing(text):
            raise BadLine(
                f"field {field!r}: found {shown(value)}, a missing value, expected a time;"
                " --skip-bad-lines leaves such lines out"
            )
        number = None if isinstance(value, bool) or len(text) > LONGEST else _number(text)
        if number is not None:
            self._check_form("number", value, field)
            if not -LATEST < number < LATEST:
                raise BadLine(f"field {field!r}: found {shown(value)}, expected a time")
            return int(number) if number == number.to_integral_value() else number
        try:
            if not isinstance(value, str) or len(text) > LONGEST:
                raise ValueError
            return self._date(text, field)
        except (ValueError, OverflowError):
            raise BadLine(
                f"field {field!r}: found {shown(value)}, expected a time: {EXPECTED}"
            ) from None

    def _check_form(self, form: str, value: object, field: str) -> None:
        if self._form != form:
            if self._form:
                raise BadLine(
                    f"field {field!r}: found {shown(value)}, expected a {self._form} as before"
                )
            self._form = form

    def _date(self, text: str, field: str) -> Time:
        day_first = None
        if text[:4].isdigit():
            form, (moment, fraction) = _ISO, _iso(text)
        elif text[:3].isalpha():
            form, moment, fraction = "date as in mails", parsedate_to_datetime(text), ""
        elif "." in text[:3]:
            form, (moment, fraction, _) = "date day.month.year", _local(text, True)
        else:
            form = _SLASHES
            moment, fraction, day_first = _local(text, self._day_first)
        zoned = moment.tzinfo is not None
        passed = (moment if zoned else moment.replace(tzinfo=datetime.UTC)) - _EPOCH
        self._check_form(form, text, field)
        # A line that is refused has left by now, and changes nothing of how others are read.
        self._zones.add(zoned)
        if form == _SLASHES and self._day_first is None:
            self._decide(day_first, moment, text, field)
        seconds = passed.days * 86_400 + passed.seconds
        if not fraction.strip("0"):
            return seconds
        return _EXACT.add(Decimal(seconds), Decimal(f"0.{fraction}"))

    def _decide(
        self, day_first: bool | None, moment: datetime.datetime, text: str, field: str
    ) -> None:
        """Note what a date says on whether the day is first, which no date has said so far."""
        if day_first is not None:
            self._day_first = day_first
            self._month_first_rows = len(self) if day_first else 0
        elif moment.day != moment.month and not self._either_way:
            self._either_way = f"field {field!r}: found dates such as {text!r}"

    def column(self, unit: str | None = None) -> TimeColumn:
        """Return the times, whose unit shows unless `unit` says it.

        UserError when day and month cannot be told apart.
        """
        if unit is not None:
            return TimeColumn(np.asarray(self.whole), unit, "")
        if self._day_first is None and self._either_way:
            raise UserError(
                f"{self._either_way}, in which the month or the day may be first, expected"
                " year-month-day, such as 2020-01-31"
            )
        whole = np.asarray(self.whole)
        if not len(whole):
            return TimeColumn(whole, self.declared or UNKNOWN, "none")
        if self._month_first_rows:
            rows = slice(0, self._month_first_rows)
            whole[rows] = [_swapped(seconds) for seconds in whole[rows].tolist()]
        fraction = np.zeros(len(whole) if self._fractions else 0, np.int64)
        fraction[np.array(self._fraction_rows, np.int64)] = np.array(self._fractions, np.int64)
        if self._form == "number":
            unit, meaning, *warnings = _meaning(whole, fraction, self.declared)
        else:
            unit, meaning, *warnings = self._dates(whole)
        values, stored = _scaled(whole, fraction, unit)
        if stored != unit:
            steps = stored.startswith("1e-")
            meaning += f", kept in steps of {stored}" if steps else f", kept as {stored}s"
        return TimeColumn(values, stored, said(meaning, *warnings))

    def _dates(self, whole: np.ndarray) -> tuple[str, ...]:
        form = self._form.partition(" with ")[0]
        form += {True: ", day first", False: ", month first", None: ""}[self._day_first]
        zone = "" if True in self._zones else ", taken as UTC"
        mixed = "some dates have no zone and count as UTC" if len(self._zones) == 2 else ""
        return "second", f"each a {form}{zone}, {_span(whole)}", mixed


def _meaning(whole: np.ndarray, fraction: np.ndarray, declared: str | None) -> tuple[str, ...]:
    """The unit of numbers, by their size, a sentence on it, and warnings."""
    middle = int(np.partition(whole, len(whole) // 2)[len(whole) // 2])
    for unit, power in _UNITS.items():
        low, high = _FIRST * 10**power, min(_LAST * 10**power, LATEST)
        if not low <= middle < high:
            continue
        outside = whole[(whole < low) | (whole >= high)]
        other = stray = ""
        if declared and unit != declared:
            other = f"this format has {declared}s"
        if len(outside):
            stray = f"{len(outside):,} of {len(whole):,} lie far from the others, e.g. {outside[0]}"
        inside = whole[(whole >= low) & (whole < high)] // 10**power
        return unit, f"{unit}s since 1970, {_span(inside)}", other, stray
    first, last = int(whole.min()), int(whole.max())
    span = f"{_decimal(whole, fraction, np.min)} to {_decimal(whole, fraction, np.max)}"
    if declared:
        return declared, f"{declared}s since 1970, {span}"
    if _SERIAL_DAYS[0] <= first and last < _SERIAL_DAYS[1]:
        start = datetime.date(1899, 12, 30)
        days = [start + datetime.timedelta(number) for number in (first, last)]
        return "day", f"days as spreadsheets number them, {days[0]} to {days[1]}"
    if not len(fraction) and all(_is_calendar_number(n) for n in (first, middle, last)):
        return "calendar number", f"dates written as one number, {span}"
    return UNKNOWN, f"{span} in an unknown unit, of which only the order counts"


def _number(text: str) -> Decimal | None:
    """A finite number; None for anything else."""
    try:
        number = None if "_" in text else Decimal(text)
    except InvalidOperation:
        return None
    return number if number is not None and number.is_finite() else None


def _iso(text: str) -> tuple[datetime.datetime, str]:
    """An ISO 8601 date, also with slashes, and the digits of its fraction of a second."""
    text = text.replace("/", "-")
    for zone in ("UTC", "GMT"):
        if text.endswith(zone):
            text = text.removesuffix(zone).rstrip() + "+00:00"
    head, _, tail = text.replace(",", ".").partition(".")
    rest = tail.lstrip("0123456789")
    return datetime.datetime.fromisoformat(head + rest.strip()), tail[: len(tail) - len(rest)]


def _local(text: str, day_first: bool | None) -> tuple[datetime.datetime, str, bool | None]:
    """A date with the year at its end, the digits of its fraction, and whether its day is first.

    That is None, and the month is taken to be first, where neither `day_first` nor the date says.
    """
    date, _, clock = text.partition(" ")
    parts = date.replace("-", "/").replace(".", "/").split("/")
    first, second, year = (int(part) for part in parts if len(part) in (1, 2, 4))
    year += (1900 if year > 68 else 2000) if len(parts[2]) == 2 else 0
    if day_first is None and max(first, second) > 12:
        day_first = first > 12
    day, month = (first, second) if day_first else (second, first)
    time, fraction = _clock(clock.strip())
    return datetime.datetime.combine(datetime.date(year, month, day), time), fraction, day_first


def _clock(text: str) -> tuple[datetime.time, str]:
    """A time of day, also with AM or PM, and the digits of its fraction of a second."""
    if not text:
        return datetime.time(), ""
    half = text[-2:].upper()
    text = text[:-2].strip() if half in ("AM", "PM") else text
    text = f"0{text}" if text[1:2] == ":" else text
    head, _, fraction = text.partition(".")
    time = datetime.time.fromisoformat(head)
    if fraction and not fraction.isdigit():
        raise ValueError
    if half in ("AM", "PM"):
        if not 1 <= time.hour <= 12:
            raise ValueError
        time = time.replace(hour=time.hour % 12 + (12 if half == "PM" else 0))
    return time, fraction


def _swapped(seconds: int) -> int:
    """The time of which day and month were taken for each other."""
    moment = _EPOCH + datetime.timedelta(seconds=seconds)
    right = moment.replace(day=moment.month, month=moment.day) - _EPOCH
    return right.days * 86_400 + right.seconds


def _scaled(whole: np.ndarray, fraction: np.ndarray, unit: str) -> tuple[np.ndarray, str]:
    """The times as int64 [N] and their unit: a decimal part of `unit` where there are fractions.

    Where int64 cannot hold them they become ranks, equal ones the same.
    """
    if not len(fraction):
        return whole, unit
    decimals = next(
        d for d in range(1, DECIMALS + 1) if not (fraction % 10 ** (DECIMALS - d)).any()
    )
    stored = f"1e-{decimals} {unit}" if unit != UNKNOWN else f"1e-{decimals}"
    if unit in _UNITS:
        power = _UNITS[unit] + decimals
        finer = {p: name for name, p in _UNITS.items() if p >= power}
        if finer:
            decimals = min(finer) - _UNITS[unit]
            stored = finer[min(finer)]
    if int(np.abs(whole).max()) + 1 >= LATEST // 10**decimals:
        order = np.lexsort((fraction, whole))
        later = (np.diff(whole[order]) != 0) | (np.diff(fraction[order]) != 0)
        ranks = np.empty(len(whole), np.int64)
        ranks[order] = np.r_[0, np.cumsum(later)]
        return ranks, "rank"
    return whole * 10**decimals + fraction // 10 ** (DECIMALS - decimals), stored


def _decimal(whole: np.ndarray, fraction: np.ndarray, of: Callable[[np.ndarray], int]) -> str:
    """The least or the greatest time."""
    number = int(of(whole))
    if not len(fraction):
        return str(number)
    part = Decimal(int(of(fraction[whole == number]))).scaleb(-DECIMALS, _EXACT)
    return f"{_EXACT.add(Decimal(number), part):f}".rstrip("0").rstrip(".")


def _span(seconds: np.ndarray) -> str:
    days = np.array([seconds.min(), seconds.max()], "datetime64[s]").astype("datetime64[D]")
    return f"{days[0]} to {days[1]}"


def _is_calendar_number(number: int) -> bool:
    """Whether it is a date written as 20200131, or with the time of day as 20200131235959."""
    text = str(number)
    if len(text) not in (8, 14) or not "1900" <= text[:4] <= "2100":
        return False
    try:
        datetime.datetime.strptime(text, "%Y%m%d%H%M%S"[: 6 if len(text) == 8 else 12])
    except ValueError:
        return False
    return True
