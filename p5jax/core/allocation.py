"""Where Arrow takes its memory from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyarrow as pa


@contextlib.contextmanager
def c_allocation() -> Iterator[None]:
    """Within it, or in a function that it decorates, Arrow's memory is from the C library.

    Arrow's own pool soon gives the system back what is free. Where large columns come and go, fresh
    pages then take as much as a quarter of all time.
    """
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)
