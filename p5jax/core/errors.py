"""Errors that a user can mend, and the end of interrupted work."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from typing import Any

_SYSTEM_ERROR = re.compile(r"(?:\[errno |^\[Errno |os_error_code=')(\d+)")


_LONGEST = 1000  # characters of a message


class UserError(Exception):
    """A mistake in what the user gave; one line says what was found and what was expected.

    What a terminal would not print, a line end in a key of a file, say, is written as an escape.
    Of a text that fills a screen, a number of thousands of digits, the middle is left out.
    """

    def __init__(self, text: str) -> None:
        if not text.isprintable():
            text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
        super().__init__(text)


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


def shown(value: object, longest: int = 80) -> str:
    """Return a value as a message shows it: its repr, cut where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested without end; a number of thousands of digits
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def in_words(error: Exception) -> str:
    """Return what an error says on one line, an OSError's file first where it names one.

    Of the longer texts of Arrow and TensorStore only the system's own reason is left.
    """
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    code = _SYSTEM_ERROR.search(str(error))
    return os.strerror(int(code[1])) if code else " ".join(str(error).split())
