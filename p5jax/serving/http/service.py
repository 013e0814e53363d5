"""What a service holds: the engines that answer now, the queue before them, and its own record."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest

from p5jax.core.errors import UserError, in_words
from p5jax.serving.http.batcher import Batcher
from p5jax.serving.http.bodies import BODIES
from p5jax.serving.http.engine import Engine
from p5jax.serving.recommender import Recommender
from p5jax.serving.settings import ServeConfig

_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.3, 2.5, 5.0)


class Unready(Exception):
    """There is no engine yet, or none any more."""


class Busy(Exception):
    """A run is being loaded already."""


class Log:
    """A JSON object a line on the standard error stream; nothing that users wrote, unless asked."""

    def event(self, what: str, **told: Any) -> None:
        """Write what happened; answers go on where that cannot be written."""
        line = {"time": round(time.time(), 3), "event": what, **told}
        with contextlib.suppress(OSError):
            print(json.dumps(line), file=sys.stderr, flush=True)

    def request(
        self, method: str, path: str, status: int, seconds: float, asked: bytes | None
    ) -> None:
        """Write of an answered request."""
        told = {} if asked is None else {"asked": asked.decode("utf-8", "replace")}
        milliseconds = round(seconds * 1000, 1)
        self.event("request", method=method, path=path, status=status, ms=milliseconds, **told)

    def failure(self, error: BaseException) -> None:
        """Write of a failure that is the service's own, with where it was."""
        frames = [f"{f.filename}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
        self.event(
            "failure", error=type(error).__name__, text=in_words(Exception(error)), at=frames
        )


class Metrics:
    """What Prometheus is told."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self._requests = Counter(
            "p5jax_requests", "Answered requests", ("path", "status"), registry=registry
        )
        self._seconds = Histogram(
            "p5jax_request_seconds",
            "Time of a request",
            ("path",),
            registry=registry,
            buckets=_SECONDS,
        )
        self._rows = Histogram(
            "p5jax_batch_rows",
            "Requests of a batch",
            registry=registry,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )
        self._device = Counter("p5jax_batch_seconds", "Time spent on batches", registry=registry)
        self._reloads = Counter("p5jax_reloads", "Runs loaded", ("outcome",), registry=registry)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, rows: int, seconds: float) -> None:
        """Count a batch."""
        self._rows.observe(rows)
        self._device.inc(seconds)

    def reload(self, outcome: str) -> None:
        """Count a run that was loaded, or was not."""
        self._reloads.labels(outcome).inc()

    def text(self, depth: int) -> bytes:
        """Return all that is counted, and how many wait."""
        waiting = f"# TYPE p5jax_queue_depth gauge\np5jax_queue_depth {depth}\n"
        return bytes(generate_latest(self.registry)) + waiting.encode()


class Service:
    """Runs that are loaded by `load`, first and again, and answer what is submitted.

    first: the runs, loaded already, of which the first answers who names none. token: what callers
    must know, "" for a service that is open. UserError for runs of one name.
    """

    paths = frozenset(
        ["/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/admin/reload"]
        + [f"/v1/{name}" for name in BODIES]
        + [f"/v1/{name}" for name in ("items", "users", "model")]
    )

    def __init__(
        self,
        first: Sequence[Recommender],
        load: Callable[[], Sequence[Recommender]],
        config: ServeConfig,
        token: str = "",
    ):
        self.load, self.config, self.token = load, config, token
        self.paths_of_data = {str(each.run.dataset.path) for each in first}
        self.metrics, self.log = Metrics(), Log()
        self._engines: dict[str, Engine] = {}
        self._first = self._made(first)
        self._loading = asyncio.Lock()
        self._batcher: Batcher | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False
        self.broken: Exception | None = None  # why the first run could not be made ready
        self.on_broken: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Begin to compile; until that is done the service is not ready."""
        self._batcher = Batcher(self.config.rows, self.config.queue, self.metrics.batch)
        self.soon(self._begin())

    def soon(self, work: Any) -> None:
        """Do something beside the requests; a failure is logged."""

        async def watched() -> None:
            try:
                await work
            except Exception as error:
                self.log.failure(error)

        task = asyncio.ensure_future(watched())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _begin(self) -> None:
        async with self._loading:
            try:
                await asyncio.to_thread(self._warm, self._first)
            except Exception as error:
                self.broken = error
                self.on_broken()
                raise
            if self._stopped:
                return
            self._engines = self._first
            runs = [str(each.recommender.run.path) for each in self._first.values()]
            self.log.event("ready", runs=runs)

    def _made(self, recommenders: Sequence[Recommender]) -> dict[str, Engine]:
        """Engines by the names of their runs."""
        made: dict[str, Engine] = {}
        for each in recommenders:
            name = each.run.path.name
            if name in made:
                raise UserError(f"{each.run.path}: found two runs named {name!r}, expected one")
            made[name] = Engine(each, self.config)
        return made

    def _warm(self, engines: dict[str, Engine]) -> None:
        for engine in engines.values():
            engine.warm(self._report, self._goes_on)

    def _goes_on(self) -> bool:
        return not self._stopped

    def _report(self, line: str) -> None:
        self.log.event("progress", text=line)

    async def stop(self) -> None:
        """End when all that was accepted is answered."""
        self._stopped = True
        if self._batcher:
            await asyncio.to_thread(self._batcher.close)
        self.log.event("stopped")

    @property
    def depth(self) -> int:
        """How many requests wait."""
        return self._batcher.depth if self._batcher else 0

    def engine_or_unready(self, run: str = "") -> Engine:
        """Return what answers now, for a run or for the first.

        Unready before it is compiled, UserError for a run that is not served.
        """
        if not self._engines:
            raise Unready("the service is compiling; try again later")
        names = list(self._engines)
        if run and run not in names:
            raise UserError(f"run: found {run!r}, expected {' or '.join(names)}")
        return self._engines[run or names[0]]

    def model(self, run: str) -> dict[str, Any]:
        """Return what is served of a run, and the names of all, for /v1/model."""
        return self.engine_or_unready(run).model() | {"runs": list(self._engines)}

    async def submit(
        self, do: Callable[[Sequence[Any]], list[Any]], kind: Hashable, work: Any
    ) -> Any:
        """Return what the engine makes of a request; see Batcher.submit."""
        assert self._batcher is not None
        return await self._batcher.submit(do, kind, work, self.config.seconds)

    async def reload(self) -> None:
        """Load the runs anew and swap them in when they are compiled; what waits is still answered.

        UserError, and the old ones stay, where it cannot be loaded; Busy while another is loading.
        """
        if self._loading.locked():
            raise Busy("a run is being loaded already")
        async with self._loading:
            try:
                self._engines = await asyncio.to_thread(self._loaded)
            except Exception as error:
                self.metrics.reload("failed")
                self.log.event("reload failed", text=in_words(error))
                raise error if isinstance(error, UserError) else RuntimeError("reload") from error
            self.metrics.reload("loaded")
            self.log.event("reloaded")

    def _loaded(self) -> dict[str, Engine]:
        engines = self._made(self.load())
        self._warm(engines)
        return engines
