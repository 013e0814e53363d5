"""Work from many callers, done together by one thread that has the device.

The thread takes the oldest piece of work and all others of its kind, up to a batch, and never
waits for more to come: while it works, what arrives next gathers. So a caller alone is answered at
once, and a crowd in batches.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

Do = Callable[[Sequence[Any]], Sequence[Any]]


class QueueFull(Exception):
    """As much waits as may; `seconds` is about how long that takes."""

    def __init__(self, seconds: float) -> None:
        super().__init__("the queue is full")
        self.seconds = seconds


class Late(Exception):
    """The deadline passed before there was an answer."""


@dataclass(eq=False)
class _Piece:
    do: Do
    kind: Hashable
    work: Any
    deadline: float
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    dropped: threading.Event = field(default_factory=threading.Event)

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """Tell the caller, in its own loop, unless it has gone."""

        def tell() -> None:
            if self.future.done():
                return
            if error is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(error)

        self.loop.call_soon_threadsafe(tell)


class Batcher:
    """A queue of at most `waiting` pieces of work, done at most `rows` at a time.

    seen: told of each batch's number of pieces and seconds.
    """

    def __init__(self, rows: int, waiting: int, seen: Callable[[int, float], None]):
        self.rows, self.waiting, self.seen = rows, waiting, seen
        self._pieces: deque[_Piece] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._pace = 0.05  # seconds of a piece, smoothed
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """How many pieces wait."""
        return len(self._pieces)

    async def submit(self, do: Do, kind: Hashable, work: Any, seconds: float) -> Any:
        """Return what `do` makes of this work, which it gets with others of its kind.

        QueueFull at once when too much waits, Late after `seconds`. A caller that is cancelled
        leaves the queue.
        """
        loop = asyncio.get_running_loop()
        piece = _Piece(do, kind, work, time.monotonic() + seconds, loop, loop.create_future())
        with self._changed:
            if len(self._pieces) >= self.waiting:
                raise QueueFull(self._pace * len(self._pieces))
            self._pieces.append(piece)
            self._changed.notify()
        try:
            return await asyncio.wait_for(piece.future, seconds)
        except TimeoutError:
            raise Late from None
        finally:
            piece.dropped.set()

    def close(self) -> None:
        """End the thread when all that waits is done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._pieces and not self._closed:
                    self._changed.wait()
                if not self._pieces:
                    return
                batch = self._take()
            if batch:
                self._do(batch)

    def _take(self) -> list[_Piece]:
        """The oldest piece that is still wanted and others of its kind; the rest stays in order."""
        batch: list[_Piece] = []
        rest: deque[_Piece] = deque()
        for piece in self._pieces:
            if piece.dropped.is_set():
                continue
            alike = not batch or (piece.kind == batch[0].kind and piece.do == batch[0].do)
            (batch if alike and len(batch) < self.rows else rest).append(piece)
        self._pieces = rest
        return batch

    def _do(self, batch: list[_Piece]) -> None:
        started = time.monotonic()
        try:
            results = batch[0].do([piece.work for piece in batch])
        except BaseException as error:  # the caller's, whose request fails; the thread goes on
            for piece in batch:
                piece.settle(error=error)
        else:
            for piece, result in zip(batch, results, strict=True):
                piece.settle(result)
        seconds = time.monotonic() - started
        self._pace += 0.2 * (seconds / len(batch) - self._pace)
        self.seen(len(batch), seconds)
