"""A function of many parts of the data, over the cores of this machine.

The processes are joblib's, which start without running the caller's script again, so that a script
needs no `if __name__ == "__main__"` and a program that has started JAX is not forked.
"""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

MOST = 8  # processes; one that reads for them all keeps about so many busy
IDLE = 10  # seconds that a process waits for the next call
AHEAD = 2  # parts for each process that are under way, at most

Part = TypeVar("Part")
Result = TypeVar("Result")


def process_count() -> int:
    """Return how many processes `in_processes` starts: one for each core that we may use."""
    from joblib import cpu_count

    return min(int(cpu_count()), MOST)


def in_processes(
    function: Callable[[Part], Result], parts: Iterable[Part]
) -> Iterator[tuple[Part, Result]]:
    """Yield (part, function(part)) in the order of the parts; a single part stays in this process.

    What making the parts raises comes behind the results of those made before it.
    """
    parts = iter(parts)
    first = list(itertools.islice(parts, 2))
    if len(first) < 2 or process_count() < 2:
        for part in itertools.chain(first, parts):
            yield part, function(part)
        return
    from joblib import Parallel, delayed

    started = deque[Part]()
    failed: list[Exception] = []

    def tasks() -> Iterator[object]:
        try:
            for part in itertools.chain(first, parts):
                started.append(part)
                yield delayed(function)(part)
        except Exception as error:  # raised below, when what was made before it is done
            failed.append(error)

    ahead = AHEAD * process_count()
    results = Parallel(
        process_count(),
        return_as="generator",
        pre_dispatch=ahead,
        batch_size=1,
        backend="loky",
        idle_worker_timeout=IDLE,
    )(tasks())
    try:
        for result in results:
            yield started.popleft(), result
    finally:
        with warnings.catch_warnings(action="ignore"):  # that parts under way are in vain
            results.close()
    if failed:
        raise failed[0]
