"""Python functions inside a tf.data pipeline, which end when the interpreter does.

Once the interpreter closes, a thread of TensorFlow that calls Python never returns, and an iterator
that is still reading ahead then makes the process hang; after an error, above all, whose traceback
keeps the iterator alive. So at exit calls fail at once, and the interpreter waits until none come.
"""

from __future__ import annotations

import atexit
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from p5jax.core.errors import UserError

_QUIET, _PATIENCE = 0.2, 10.0  # seconds
_closing = threading.Event()
_last_call = 0.0


def numpy_function(
    function: Callable[..., Any], inputs: Sequence[tf.Tensor], types: Sequence[tf.DType]
) -> list[tf.Tensor]:
    """Return the outputs of a pure function of numpy values, as tf.numpy_function does."""

    def call(*values: Any) -> Any:
        global _last_call
        _last_call = time.monotonic()
        if _closing.is_set():
            raise RuntimeError("the interpreter is closing")
        return function(*values)

    found = tf.numpy_function(call, inputs, types, stateful=False)
    return list(found) if isinstance(found, list | tuple) else [found]  # eagerly, one is bare


def user_error(error: BaseException) -> UserError | None:
    """Return the UserError that an error is or, raised in a function above, carries as text."""
    found = str(error) if isinstance(error, UserError) else None
    if isinstance(error, tf.errors.OpError):
        carried = re.search(r"\bUserError: (.*)", str(error))
        found = carried[1] if carried else None
    return None if found is None else UserError(found.splitlines()[0])


@atexit.register
def _close() -> None:
    _closing.set()
    start = time.monotonic()
    while _last_call and time.monotonic() < min(_last_call + _QUIET, start + _PATIENCE):
        time.sleep(_QUIET / 10)
