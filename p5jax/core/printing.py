"""Text for a terminal: what would command it is written out, and what it cannot show is escaped."""

from __future__ import annotations

import contextlib
import io
import re
import sys

# Control characters but for tab and line feed, and those that turn the direction of writing.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    r"""Return text without a character that commands a terminal: ESC is written as \x1b."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    r"""Return `plain` text on one line: a line feed is written as \n."""
    return plain(text).replace("\n", "\\n")


def escape_unprintable() -> None:
    """Let the standard streams escape what their encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def end_output() -> None:
    """Write what is left for the standard output; OSError when it cannot be, and it is given up."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            sys.stdout = open("/dev/null", "w", encoding="utf-8")  # noqa: SIM115  or it fails again at exit
        raise
