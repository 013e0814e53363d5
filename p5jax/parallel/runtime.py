"""Process-wide settings of the commands that compute: the allocator and the compilation cache."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
from collections.abc import Iterator

from p5jax.parallel import distributed
from p5jax.parallel.partitioning import enable_compilation_cache

# <malloc.h>: mallopt's parameters.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_PAD = 256 << 20  # bytes


def set_up() -> None:
    """Prepare this process for heavy work, and join the others if there are any.

    Call it before the first array is made; a second time does nothing.
    """
    keep_freed_memory()
    distributed.start()
    enable_compilation_cache()


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Set up, and within it end together with the other processes (see parallel.distributed)."""
    set_up()
    with distributed.together():
        yield


def keep_freed_memory() -> bool:
    """Make glibc keep what is freed instead of giving it back; return whether it did.

    XLA on a CPU allocates a program's temporary buffers anew at every call. Given back to the
    kernel and faulted in again, they cost a third of a small training step's processor time.
    """
    name = ctypes.util.find_library("c")
    library = ctypes.CDLL(name) if name else None
    if library is None or not hasattr(library, "mallopt"):
        return False
    settings = (
        (_M_ARENA_MAX, 1),
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, 2**31 - 1),
        (_M_TOP_PAD, _PAD),
    )
    return all(library.mallopt(parameter, value) for parameter, value in settings)
