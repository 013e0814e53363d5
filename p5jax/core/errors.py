"""Errors that a user can mend, and the end of interrupted work."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class UserError(Exception):
    """A mistake in what the user gave; one line says what was found and what was expected."""


class Interrupted(Exception):
    """Work that a signal stopped in good order: what is done is saved, the same call resumes it.

    signal: its number. The text says how far the work came.
    """

    def __init__(self, signal: int, text: str) -> None:
        super().__init__(text)
        self.signal = signal


def at_least(settings: object, least: Mapping[str, float]) -> None:
    """Raise UserError for the first attribute of `settings` that is below its least value."""
    for name, low in least.items():
        found = getattr(settings, name)
        if found < low:
            what = f"{type(settings).__name__}.{name}"
            raise UserError(f"{what}: found {found}, expected {low} or more")


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """Return a phrase naming the known names closest to `name`, for the end of an error line."""
    close = difflib.get_close_matches(name, list(known), n=n, cutoff=0.4)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def in_words(error: Exception) -> str:
    """Return what an error says on one line, an OSError's file first where it names one."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)
