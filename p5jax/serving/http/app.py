"""The service as an ASGI application: routes, limits, errors, and what is logged of a request."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from p5jax.core.errors import UserError
from p5jax.serving.http.batcher import Late, QueueFull
from p5jax.serving.http.bodies import (
    BODIES,
    Generate,
    Recommend,
    as_error,
    read_body,
    refuse_long,
)
from p5jax.serving.http.openapi import document
from p5jax.serving.http.service import Busy, Service, Unready

LARGEST_BODY = 1 << 20  # bytes
_BODY_SECONDS = 10.0  # in which a body has to come
_OPEN = ("/", "/healthz", "/readyz", "/openapi.json")  # without a token, for they tell nothing
_PAGE = (files("p5jax.serving.http") / "page.html").read_text("utf-8")
Answer = Callable[[Request], Awaitable[Response]]


def application(service: Service) -> Starlette:
    """Return the routes of a service; its life is the application's."""

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    looks = _Looks(service)
    routes = [
        Route("/", looks.page),
        Route("/healthz", looks.healthy),
        Route("/readyz", looks.ready),
        Route("/metrics", looks.metrics),
        Route("/openapi.json", looks.openapi),
        Route("/v1/model", looks.model),
        Route("/v1/items", looks.items),
        Route("/v1/users", looks.users),
        *(
            Route(f"/v1/{name}", _asking(service, kind, name), methods=["POST"])
            for name, (kind, _) in BODIES.items()
        ),
        Route("/admin/reload", looks.reload, methods=["POST"]),
    ]
    app = Starlette(routes=routes, lifespan=life, exception_handlers=_handlers(service))
    app.router.redirect_slashes = False
    app.add_middleware(_Watched, service=service)
    return app


class _Looks:
    """The routes that the device does not work for."""

    def __init__(self, service: Service):
        self.service = service

    async def page(self, request: Request) -> Response:
        return Response(_PAGE, media_type="text/html", headers=_page_headers())

    async def healthy(self, request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        self.service.engine_or_unready()
        return JSONResponse({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        metrics = self.service.metrics
        return Response(metrics.text(self.service.depth), media_type=metrics.media_type)

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(document())

    async def model(self, request: Request) -> Response:
        return JSONResponse(self.service.model(_run(request)))

    async def items(self, request: Request) -> Response:
        return await _search(self.service, request, "items")

    async def users(self, request: Request) -> Response:
        return await _search(self.service, request, "users")

    async def reload(self, request: Request) -> Response:
        if not self.service.token:
            raise HTTPException(403, "reload: found no token of the service, expected one")
        await self.service.reload()
        return JSONResponse({"status": "reloaded"})


def _asking(service: Service, kind: type[Any], name: str) -> Answer:
    """A route whose body is of a kind, and which the engine's method `name` answers."""

    async def answer(request: Request) -> Response:
        service.engine_or_unready()  # before a body is read
        if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
            raise HTTPException(415, "content-type: expected application/json")
        raw = await _body(request)
        request.scope["asked"] = raw
        body = read_body(kind, raw)
        engine = service.engine_or_unready(body.run)

        async def answered() -> Any:
            if kind is Recommend:
                work = await run_in_threadpool(engine.work, body)
                among = work[1].case.candidates is not None
                return await service.submit(engine.recommend, (work[0], among), work)
            if kind is not Generate:
                await run_in_threadpool(engine.work, body)  # refuses what is unknown
            return await service.submit(getattr(engine, name), name, body)

        return JSONResponse(await _while_there(request, answered()))

    return answer


async def _body(request: Request) -> bytes:
    """The body, which may not be large nor slow."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > LARGEST_BODY:
        raise HTTPException(413, f"body: found {declared} bytes, expected {LARGEST_BODY} at most")
    parts: list[bytes] = []

    async def read() -> None:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > LARGEST_BODY:
                raise HTTPException(413, f"body: found more than {LARGEST_BODY} bytes")
            parts.append(part)

    try:
        await asyncio.wait_for(read(), _BODY_SECONDS)
    except TimeoutError:
        raise HTTPException(
            408, f"body: found only its beginning after {_BODY_SECONDS:g} s"
        ) from None
    return b"".join(parts)


async def _while_there(request: Request, answered: Any) -> Any:
    """The answer, unless the client goes away first: its work is then dropped."""
    task = asyncio.ensure_future(answered)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


def _run(request: Request) -> str:
    """The run that a query names."""
    run = request.query_params.get("run", "")
    refuse_long("run", [run])
    return run


async def _search(service: Service, request: Request, what: str) -> Response:
    engine = service.engine_or_unready(_run(request))
    query = request.query_params.get("query", "")
    refuse_long("query", [query])
    limit = request.query_params.get("limit", "20")
    if not limit.isdecimal() or not 1 <= int(limit[:9]) <= 100:
        raise UserError(f"limit: found {limit!r}, expected 1 to 100")
    return JSONResponse({what: await run_in_threadpool(engine.search, what, query, int(limit))})


def _handlers(service: Service) -> dict[Any, Any]:
    """What each kind of failure is answered with."""

    def failed(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse(as_error(message, service.paths_of_data), status, headers)

    async def refused(request: Request, error: Exception) -> Response:
        return failed(422, str(error))

    async def http(request: Request, error: HTTPException) -> Response:
        return failed(error.status_code, str(error.detail), dict(error.headers or {}))

    async def full(request: Request, error: QueueFull) -> Response:
        seconds = max(1, round(error.seconds))
        return failed(429, "the queue is full; try again later", {"Retry-After": str(seconds)})

    async def late(request: Request, error: Late) -> Response:
        return failed(504, f"no answer within {service.config.seconds:g} s", {"Retry-After": "1"})

    async def unready(request: Request, error: Unready) -> Response:
        return failed(503, str(error), {"Retry-After": "5"})

    async def busy(request: Request, error: Busy) -> Response:
        return failed(409, str(error))

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)

    async def broken(request: Request, error: Exception) -> Response:
        service.log.failure(error)
        return failed(500, "the service failed; its log says more")

    return {
        UserError: refused,
        HTTPException: http,
        QueueFull: full,
        Late: late,
        Unready: unready,
        Busy: busy,
        ClientDisconnect: gone,
        Exception: broken,
    }


class _Watched:
    """Around every request: the token, what is measured and logged, and headers."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 499

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-content-type-options", b"nosniff"),
                    (b"cache-control", b"no-store"),
                ]
            await send(message)

        try:
            if self._allowed(scope):
                await self.app(scope, receive, seen)
            else:
                refusal = JSONResponse(
                    as_error("authorization: expected the bearer token of this service"),
                    401,
                    {"WWW-Authenticate": "Bearer"},
                )
                await refusal(scope, receive, seen)
        except Exception:
            status = 500  # is answered further out
            raise
        finally:
            seconds = time.monotonic() - started
            route = scope["path"] if scope["path"] in self.service.paths else "other"
            self.service.metrics.request(route, status, seconds)
            asked = scope.get("asked") if self.service.config.log_questions else None
            self.service.log.request(scope["method"], route, status, seconds, asked)

    def _allowed(self, scope: Scope) -> bool:
        token = self.service.token
        if not token or scope["path"] in _OPEN:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, f"Bearer {token}".encode())


def _page_headers() -> dict[str, str]:
    """Nothing but the page's own script and style may run, and it talks to its service alone."""
    allowed = []
    for name in ("script", "style"):
        inner = _PAGE.split(f"<{name}>", 1)[1].split(f"</{name}>", 1)[0]
        digest = b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        allowed.append(f"{name}-src 'sha256-{digest}'")
    policy = "; ".join(
        ["default-src 'none'", *allowed, "connect-src 'self'", "base-uri 'none'"]
        + ["form-action 'none'", "frame-ancestors 'none'", "img-src data:"]
    )
    return {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
