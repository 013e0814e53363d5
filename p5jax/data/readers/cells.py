"""The cells of a table: what is missing, quotes of CSV, and how a cell is shown in an error."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterable, Sequence
from decimal import Decimal

from p5jax.core.errors import UserError, shown
from p5jax.core.kinds import is_text

# What programs write for a missing value; "none" is an occupation in MovieLens.
_WRITTEN = "nan NaN NAN -nan null Null NULL None NA N/A n/a <NA> #N/A NaT"
MISSING = frozenset(("", *_WRITTEN.split()))
WARNING = "warning: "  # begins a sentence of `RawData.understood` that a person must look at
LARGEST_KEY = 10**38  # of a number that stands for a user or an item
EXAMPLES = 3
_LONGEST = 40


class Unusual(Exception):
    """A cell or line that is read among rows, not in columns."""


class BadLine(Exception):
    """A malformed line, to be raised by a parser; `read_lines`' caller hands it to LineErrors."""


def is_missing(text: str) -> bool:
    """Whether a cell's text, without spaces around it, stands for no value."""
    return text in MISSING


def one_line(value: str | None) -> str | None:
    """Return text with its whitespace collapsed; None for blank text."""
    return (" ".join(value.split()) or None) if value else None


def known(cell: str) -> str | None:
    """Return a cell's text with its whitespace collapsed; None for a missing value."""
    value = one_line(cell)
    return None if value is None or value in MISSING else value


def key_of(value: object, field: str) -> str:
    """Return the key in a cell, a text or a whole number; BadLine when there is none."""
    if (
        isinstance(value, float | Decimal)
        and -LARGEST_KEY < value < LARGEST_KEY
        and value == int(value)
    ):
        value = int(value)  # as programs write whole numbers beside missing ones
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    key = value.strip() if isinstance(value, str) else "" if value is None else None
    if key is None or key in MISSING or not is_text(key):
        raise BadLine(
            f"field {field!r}: found {'an empty value' if key == '' else shown(value)}, expected a"
            " token; --skip-bad-lines leaves such lines out"
        )
    return key


def rating_of(value: object, field: str) -> float:
    """Return the number in a cell, NaN where it stands for no value; BadLine for anything else."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    text = value if isinstance(value, str) else None
    if math.isfinite(number) and "_" not in (text or ""):  # "1_0" is 10 to Python alone
        return number
    if is_missing(text.strip()) if text is not None else value is None or value != value:
        return math.nan
    raise BadLine(f"field {field!r}: found {shown(value)}, expected a number")


def text_of(value: object) -> str | None:
    """Return what a cell says on one line, the parts of a list joined by " | "; None if nothing."""
    if isinstance(value, str):
        return known(value if is_text(value) else value.encode("utf-8", "replace").decode())
    if isinstance(value, Iterable) and not isinstance(value, dict | bytes):
        parts = [part for part in map(text_of, value) if part]
        return " | ".join(dict.fromkeys(parts)) or None
    return known(str(value)) if isinstance(value, int | float | Decimal) else None


def split_cells(line: str, width: int) -> list[str]:
    """Return the cells between the tabs of a line, without the quotes that CSV puts around them.

    A line that is no CSV, such as one with a lone quote, is split at its tabs as it is.
    """
    cells = line.split("\t")
    if '"' not in line:
        return cells
    if len(cells) == width:
        return [_unquoted(cell) for cell in cells]
    try:
        quoted = next(csv.reader([line], delimiter="\t", strict=True))
    except csv.Error:
        return cells
    return quoted if len(quoted) == width else cells


def _unquoted(cell: str) -> str:
    inside = cell[1:-1]
    if len(cell) < 2 or not cell[0] == cell[-1] == '"' or '"' in inside.replace('""', ""):
        return cell
    return inside.replace('""', '"')


def listed(names: Sequence[str], most: int = 12) -> str:
    """Return names as an error shows them, the first few where there are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    short = (
        name if name.isprintable() and len(name) <= _LONGEST else shown(name)
        for name in names[:most]
    )
    return ", ".join(short) + more


def said(sentence: str, *warnings: str) -> str:
    """Return a sentence of `RawData.understood`, behind its warnings where there are any."""
    told = [warning for warning in warnings if warning]
    return f"{WARNING}{'; '.join(told)} ({sentence})" if told else sentence


def filled(columns: dict[str, list[str | None]]) -> str:
    """Return how many rows have a value in each column, for the end of a sentence."""
    counts = {name: sum(value is not None for value in values) for name, values in columns.items()}
    return f", with {', '.join(f'{count:,} {name}' for name, count in counts.items())}"


class Matches:
    """Counts which of the interactions' users or items a file about them names."""

    def __init__(self, keys: dict[str, int], what: str) -> None:
        """keys: each key of the interactions and its index. what: "users" or "items"."""
        self.keys, self.what = keys, what
        self.found: set[int] = set()
        self.others: dict[str, None] = {}  # the first keys that no interaction has
        self.rows = 0

    def index(self, key: str) -> int | None:
        """Return the index of a key of the file, also where one side writes 12 and one 12.0."""
        self.rows += 1
        index = self.keys.get(key)
        if index is None:
            index = self.keys.get(key.removesuffix(".0") if key.endswith(".0") else f"{key}.0")
        if index is None:
            self.miss(key)
        else:
            self.found.add(index)
        return index

    def miss(self, key: str) -> None:
        """Note a key of the file that no interaction has."""
        if len(self.others) < EXAMPLES:
            self.others[key] = None

    def understood(self, source: str, told: str) -> str:
        """Return how many keys matched, and `told`; UserError when none did."""
        found, total = len(self.found), len(self.keys)
        unknown = (key for key, index in self.keys.items() if index not in self.found)
        sides = (
            f"{self.what} such as {listed([*itertools.islice(unknown, EXAMPLES)])},"
            f" where {source} has {listed([*self.others]) or 'no other'}"
        )
        if total and not found:
            raise UserError(
                f"{source}: found none of the {total:,} {self.what} of the interactions: {sides};"
                " expected the same keys"
            )
        few = f"fewer than half match: {sides}" if 2 * found < total else ""
        return said(f"{found:,} of {total:,} {self.what} are in {source}{told}", few)
