"""A function of many parts of the data, over the cores of this machine.

It is for work that NumPy, Arrow and zlib do, which leave Python's lock to other threads: nothing is
copied from process to process, and no process has to start.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

MOST = 8  # threads; one that makes the parts for them all keeps about so many busy
AHEAD = 2  # parts for each thread that are under way, at most

Part = TypeVar("Part")
Result = TypeVar("Result")


def thread_count() -> int:
    """Return how many threads `in_threads` starts: one for each core that we may use."""
    ours = getattr(os, "sched_getaffinity", None)  # where the system can say which
    return min(len(ours(0)) if ours else os.cpu_count() or 1, MOST)


def in_threads(
    function: Callable[[Part], Result], parts: Iterable[Part]
) -> Iterator[tuple[Part, Result]]:
    """Yield (part, function(part)) in the order of the parts.

    What making the parts raises comes behind the results of those made before it.
    """
    parts, most = iter(parts), AHEAD * thread_count()
    started = deque[tuple[Part, Future[Result]]]()
    failed: Exception | None = None
    pool = ThreadPoolExecutor(thread_count())
    try:
        while True:
            try:
                for part in itertools.islice(parts, most - len(started)):
                    started.append((part, pool.submit(function, part)))
            except Exception as error:  # raised below, when what was made before it is done
                failed, parts = error, iter(())
            if not started:
                break
            part, result = started.popleft()
            yield part, result.result()
            del part, result  # or they stay in memory while the next ones are made
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        raise failed
