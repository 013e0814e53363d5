"""A service on a port: started, told to reload, and drained, by signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Sequence

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from p5jax.core.errors import UserError
from p5jax.serving.http.app import application
from p5jax.serving.http.service import Service
from p5jax.serving.recommender import Recommender
from p5jax.serving.settings import ServeConfig

TOKEN = "P5JAX_TOKEN"  # the environment variable
_SILENCE = 10.0  # seconds in which a connection has to ask something, and to take in an answer
_LARGEST_HEAD = 1 << 14  # bytes of a request's line and headers


class _Impatient(H11Protocol):
    """Closes a connection that asks nothing more, or not to the end, or speaks no HTTP."""

    _silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_request()

    def _await_request(self) -> None:
        """uvicorn's own limit ends with the first byte, and a byte now and then holds for ever."""
        if self._silence:
            self._silence.cancel()
        self._silence = self.loop.call_later(_SILENCE, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # an answer is out, which nothing can follow
            return
        if self.cycle and not self.cycle.response_complete:  # its body is malformed: it is given up
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        super().send_400_response(msg)


class _Server(uvicorn.Server):
    """Ends with status 0 when SIGTERM has drained it, and reloads on SIGHUP."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self.service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers: dict[int, Callable[[], None]] = {
            signal.SIGTERM: self.drain,
            signal.SIGINT: self.drain,
            signal.SIGHUP: lambda: self.service.soon(self.service.reload()),
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        log = self.service.log
        asyncio.get_running_loop().set_exception_handler(
            lambda _, told: log.failure(told.get("exception") or RuntimeError(told["message"]))
        )
        await super().startup(sockets)
        for each in sockets or ():
            host, port = each.getsockname()[:2]
            log.event("listening", host=host, port=port)

    def drain(self) -> None:
        """Take no more connections, and end when all are answered."""
        self.force_exit = self.should_exit  # a second signal ends at once
        self.should_exit = True


def serve(
    first: Sequence[Recommender],
    load: Callable[[], Sequence[Recommender]],
    config: ServeConfig,
    token: str = "",
) -> None:
    """Answer requests until a signal; UserError where the port cannot be had.

    first, load: as http.service.Service has them.
    """
    service = Service(first, load, config, token)
    listening = _listening(config)
    settings = uvicorn.Config(
        application(service),
        http=_Impatient,
        ws="none",
        log_config=None,
        log_level="critical",  # what fails is in the service's own log
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=_LARGEST_HEAD,
        timeout_graceful_shutdown=int(config.seconds) + 10,
    )
    server = _Server(settings, service)
    service.on_broken = server.drain
    server.run([listening])
    if service.broken:
        raise service.broken


def read_token(file: str | None) -> str:
    """Return the token of a file, or else of the environment, "" where there is none."""
    if file is None:
        return os.environ.get(TOKEN, "").strip()
    try:
        with open(file, encoding="utf-8") as opened:
            token = opened.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: {error}; expected a token") from None
    if not token or not token.isascii() or any(c.isspace() for c in token):
        raise UserError(f"{file}: found no single word of ASCII, expected a token")
    return token


def _listening(config: ServeConfig) -> socket.socket:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 1 << 16)), hard))
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        made = socket.create_server((config.host, config.port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{config.host}:{config.port}: {reason}; choose another --port") from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; each connection has it from this one
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_SILENCE * 1000))
    return made
