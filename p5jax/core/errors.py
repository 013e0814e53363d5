"""Errors that a user can mend, and the end of interrupted work."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from typing import Any

_SYSTEM_ERROR = re.compile(r"(?:\[errno |^\[Errno |os_error_code=')(\d+)")
_LONGEST_VALUE = 80  # characters of a value in a message


class UserError(Exception):
    """A mistake in what the user gave; one line says what was found and what was expected."""


class Unwritten(UserError):
    """What could not be written after it was computed: `value` is what the call would return."""

    def __init__(self, error: Exception, value: Any) -> None:
        super().__init__(in_words(error))
        self.value = value


class Interrupted(Exception):
    """Work that a signal stopped in good order: what is done is saved, the same call resumes it.

    signal: its number. The text says how far the work came.
    """

    def __init__(self, signal: int, text: str) -> None:
        super().__init__(text)
        self.signal = signal


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """Return a phrase naming the known names closest to `name`, for the end of an error line."""
    close = difflib.get_close_matches(name, list(known), n=n, cutoff=0.4)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def in_words(error: Exception) -> str:
    """Return what an error says on one line, an OSError's file first where it names one.

    Of the longer texts of Arrow and TensorStore only the system's own reason is left.
    """
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    code = _SYSTEM_ERROR.search(str(error))
    return os.strerror(int(code[1])) if code else " ".join(str(error).split())


def shown(value: object) -> str:
    """Return a value as messages show it: its beginning, where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
