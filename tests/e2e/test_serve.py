"""`p5jax serve` on an extended run, by its port and signals alone: what becomes of each fault."""

from __future__ import annotations

import http.client
import json
import resource
import signal
import socket
import threading
import time
from contextlib import closing, suppress

import pyarrow as pa
import pytest
from served import TOKEN, Process, served_run, stored

from p5jax.data.building import build_dataset
from p5jax.data.dataset import Dataset
from p5jax.data.formats import NewRowsOptions
from p5jax.data.readers.synthetic import synthetic_raw
from p5jax.jobs.extend import extend
from p5jax.runs.run import Run
from p5jax.serving.http.app import LARGEST_BODY
from p5jax.serving.recommender import Recommender

pytestmark = pytest.mark.check
OPTIONS = ("--beam", 10, "--rows", 2, "--queue", 4)
CONNECTIONS = 1000
HEAD = f"Host: a\r\nAuthorization: Bearer {TOKEN}\r\n"
FACES = "né 😀 ‮ \N{ZERO WIDTH JOINER}"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A run with one user and one item more than it was trained on."""
    folder = tmp_path_factory.mktemp("serve")
    build_dataset(
        synthetic_raw(users=60, items=40, seed=0), folder / "data", scheme="token", seed=0
    )
    data = Dataset.load(folder / "data")
    trained = stored(served_run(data, folder / "run", "2-3", max_source=64))
    new = pa.table({"user_id": ["newcomer"], "item_id": [data.item_keys[3]]})
    items = pa.table({"item_id": ["fresh"], "title": [f"<b>{FACES}</b>\x1b[2J"]})
    return extend(trained, folder / "more", NewRowsOptions(interactions=new, items=items))


@pytest.fixture(scope="module")
def service(run):
    found = Process.of(run.path, *OPTIONS)
    found.wait_until_ready()
    yield found
    assert found.ended(signal.SIGTERM) == 0
    assert [line for line in found.said if not line.startswith("{")] == []  # none is a traceback
    events = {json.loads(line)["event"] for line in found.said}
    assert events == {"listening", "progress", "ready", "request", "stopped"}


def opened(found: Process, receives: int = 0) -> socket.socket:
    made = socket.socket()
    if receives:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    made.settimeout(60)
    made.connect(("127.0.0.1", found.port))
    return made


def test_an_extended_run_is_served(service, run):
    (expected,) = Recommender.load(run).recommend(["newcomer"], beam=10)
    status, found = service.post("/v1/recommend", user="newcomer")
    assert status == 200
    assert [item["item"] for item in found["items"]] == [each.item for each in expected.items]
    status, found = service.post("/v1/recommend", user="newcomer", candidates=["fresh"])
    assert [item["item"] for item in found["items"]] == ["fresh"]
    assert service.call("GET", "/v1/items?query=fresh")[1]["items"][0]["title"]


def closed_after(connection: socket.socket) -> float:
    """Seconds until the other end has closed; what it says is passed over."""
    began = time.monotonic()
    with suppress(ConnectionError):
        while connection.recv(1 << 16):
            pass
    return time.monotonic() - began


def dripped(connection: socket.socket, first: bytes, most: float) -> float:
    """Seconds until the other end closes, while a byte comes now and then; `most` at most."""
    began = time.monotonic()
    connection.settimeout(0.5)
    connection.sendall(first)
    with suppress(ConnectionError):
        while time.monotonic() - began < most:
            with suppress(TimeoutError):
                if not connection.recv(1 << 16):
                    break
            connection.sendall(b"a")
    return time.monotonic() - began


def test_slow_clients_are_not_waited_for(service, run):
    """Others are answered meanwhile, and each slow one is shut out in the end."""
    get = f"GET /healthz HTTP/1.1\r\n{HEAD}\r\n".encode()
    post = f"POST /v1/recommend HTTP/1.1\r\n{HEAD}Content-Type: application/json\r\n"
    large = f"{post}Content-Length: {10 * LARGEST_BODY}\r\n\r\n".encode()
    starts = {
        "head": b"GET /healthz HTTP/1.1\r\nx: ",
        "second head": get + b"GET /healthz HTTP/1.1\r\nx: ",
        "body": f"{post}Content-Length: 999\r\n\r\n{{".encode(),
        "refused body": large,
        "unread body": f"GET / HTTP/1.1\r\n{HEAD}Content-Length: 999\r\n\r\n".encode(),
    }
    taken: dict[str, float] = {}

    def drip(name: str) -> None:
        with opened(service) as connection:
            taken[name] = dripped(connection, starts[name], 60)

    threads = [threading.Thread(target=drip, args=(name,)) for name in starts]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    assert service.post("/v1/recommend", user=run.dataset.user_keys[0])[0] == 200
    assert time.monotonic() - began < 5
    for thread in threads:
        thread.join()
    assert {name: seconds < 25 for name, seconds in taken.items()} == dict.fromkeys(starts, True), (
        taken
    )


def test_who_does_not_read_answers_is_shut_out(service):
    ask = f"GET /v1/users?query=user&limit=100 HTTP/1.1\r\n{HEAD}\r\n".encode()
    with opened(service, receives=4096) as connection:
        connection.settimeout(2)
        with suppress(TimeoutError):  # in the end it does not read either
            while True:
                connection.sendall(100 * ask)
        began, reset = time.monotonic(), False
        while not reset and time.monotonic() - began < 40:
            time.sleep(0.5)
            reset = bool(connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        assert reset
    assert service.call("GET", "/healthz")[0] == 200


def test_ten_megabytes_are_refused_and_the_next_one_is_answered(service):
    body = b'{"user": "' + b"x" * (10 << 20) + b'"}'
    status, found, _ = service.call("POST", "/v1/recommend", body)
    assert status == 413
    assert found["error"]["expected"] == f"{LARGEST_BODY} at most"
    assert service.call("GET", "/healthz")[0] == 200


def test_a_thousand_open_connections_keep_nobody_out(service, run):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * CONNECTIONS)), hard))
    open_now = [opened(service) for _ in range(CONNECTIONS)]
    began = time.monotonic()
    assert service.post("/v1/recommend", user=run.dataset.user_keys[0])[0] == 200
    assert time.monotonic() - began < 5
    last = max(closed_after(connection) for connection in open_now)
    assert last < 25  # all of them, since they asked nothing
    for connection in open_now:
        connection.close()


GARBAGE = (
    b"\x00\xff\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"y" * (1 << 20) + b"\r\n\r\n",
    f"POST /v1/recommend HTTP/1.1\r\n{HEAD}Content-Type: application/json\r\n"
    "Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode(),
    f"POST /nowhere HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\nzz\r\n".encode(),
    b"GET ../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://elsewhere/../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /..%2f..%2fetc%2fpasswd%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    f"GET / HTTP/1.1\r\n{HEAD}Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n".encode(),
)


@pytest.mark.parametrize("text", GARBAGE)
def test_what_is_no_request_of_the_service_is_refused(service, text):
    with opened(service) as connection:
        said = b""
        with suppress(OSError):  # it may be refused before its end
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while part := connection.recv(1 << 16):
                said += part
    assert b"root:" not in said
    if text.startswith(b"GET / ") and b"websocket" in text:
        assert said.startswith(b"HTTP/1.1 200")
    elif said:
        assert said.startswith(b"HTTP/1.1 4"), said
    assert service.call("GET", "/healthz")[0] == 200


def test_a_killed_service_leaves_nothing_behind(run):
    """It starts again on its port, and answers as before."""
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    asked = {"user": run.dataset.user_keys[5], "k": 5}
    first = Process.of(run.path, *OPTIONS)
    first.wait_until_ready()
    expected = first.post("/v1/recommend", **asked)
    failed: list[str] = []

    def ask() -> None:
        try:
            while True:
                assert first.post("/v1/recommend", **asked)[0] in (200, 429)
        except (ConnectionError, http.client.HTTPException) as error:
            failed.append(type(error).__name__)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert first.ended(signal.SIGKILL) == -signal.SIGKILL
    for thread in threads:
        thread.join()
    assert len(failed) == 4
    again = Process.of(run.path, *OPTIONS, port=first.port)
    again.wait_until_ready()
    assert again.post("/v1/recommend", **asked) == expected
    assert again.ended(signal.SIGTERM) == 0
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_sigterm_under_load_loses_nothing_that_was_accepted(run):
    """Callers get an answer for each request that the log says was accepted."""
    found = Process.of(run.path, *OPTIONS)
    found.wait_until_ready()
    keys = run.dataset.user_keys
    statuses: list[int] = []

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", found.port, timeout=60)
        with closing(connection), suppress(ConnectionError, http.client.RemoteDisconnected):
            for turn in range(100_000):
                body = json.dumps({"user": keys[(number + turn) % len(keys)]})
                headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
                connection.request("POST", "/v1/recommend", body, headers)
                answer = connection.getresponse()
                assert json.loads(answer.read())
                statuses.append(answer.status)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    assert found.ended(signal.SIGTERM) == 0
    for thread in threads:
        thread.join()
    lines = [json.loads(line) for line in found.said]
    accepted = [line["status"] for line in lines if line.get("path") == "/v1/recommend"]
    assert sorted(accepted) == sorted(statuses)
    assert set(statuses) == {200, 429}
    assert lines[-1]["event"] == "stopped"


def test_sigterm_while_it_compiles_ends_it(run):
    found = Process.of(run.path, *OPTIONS)
    assert found.ended(signal.SIGTERM) == 0
    assert json.loads(found.said[-1])["event"] == "stopped"


def test_a_port_that_is_taken_is_one_line(service, run, capfd):
    from p5jax.cli.main import main

    assert main(["serve", str(run.path), "--port", str(service.port)]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("p5jax: error: 127.0.0.1:")
    assert "choose another --port" in error
