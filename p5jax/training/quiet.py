"""A file that cannot be written is one line: what background threads print of it is left out."""

from __future__ import annotations

import functools
import logging
import sys
import threading
from typing import Any


@functools.cache
def quiet_background() -> None:
    """Keep threads of Orbax and TensorBoard from printing errors that the main thread gets too.

    Left out are Orbax's log records of errors, what asyncio says of writes that the failure of
    another has made void, and the end of TensorBoard's writer.
    """
    usual, usual_of_threads = sys.unraisablehook, threading.excepthook

    def unraisable(found: Any) -> None:
        closed = found.exc_type is RuntimeError and "Event loop is closed" in str(found.exc_value)
        if not (closed or "orbax" in str(getattr(found.object, "cr_code", ""))):
            usual(found)

    def of_threads(found: Any) -> None:
        if not type(found.thread).__module__.startswith("tensorboard."):
            usual_of_threads(found)

    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_not_of_orbax)
    sys.unraisablehook, threading.excepthook = unraisable, of_threads


def _not_of_orbax(record: logging.LogRecord) -> bool:
    told = f"{record.pathname} {record.getMessage()} {record.exc_info}"  # an error's text and type
    return record.levelno < logging.ERROR or "orbax" not in told
