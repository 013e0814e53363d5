"""A small run with random parameters that tests put to use, in Python and over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import uvicorn
from small_model import RUN_MODEL

from p5jax.data.dataset import Dataset
from p5jax.models.t5 import init_params
from p5jax.prompts.families import FamilyConfig
from p5jax.runs.run import Run, RunConfig
from p5jax.serving.http.app import application
from p5jax.serving.http.service import Service
from p5jax.training.checkpoints import Checkpoints

TOKEN = "open-sesame"


def served_run(dataset: Dataset, folder: Path, *prompts: str, max_source: int = 256) -> Run:
    """A run of a dataset whose answers differ between prompts and users."""
    config = RunConfig(str(dataset.path), str(folder), prompts=prompts, vocabulary_size=600)
    run = Run.create(config, FamilyConfig(max_source=max_source, num_candidates=4), RUN_MODEL)
    run.write()
    params = init_params(run.model, jax.random.key(0))
    params["token_embedder"]["embedding"] *= 20
    return run.with_params(params)


def stored(run: Run) -> Run:
    """The run, after its parameters are kept as a checkpoint in its folder."""
    with Checkpoints(run.path / "checkpoints") as checkpoints:
        state = {"target": run.params, "state": {"step": np.int32(5)}}
        checkpoints.save(5, state, {"step": 5})
    return run


class Caller:
    """What callers of a service on a port see."""

    def __init__(self, port: int):
        self.port = port

    def call(self, method: str, path: str, body=None, **headers):
        """The status, the value and the headers of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Authorization": f"Bearer {TOKEN}", **headers}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        kind = answer.headers.get("content-type", "")
        value = json.loads(raw) if kind == "application/json" else raw.decode()
        return answer.status, value, answer.headers

    def post(self, path: str, **body):
        return self.call("POST", path, body)[:2]

    def wait_until_ready(self) -> None:
        while self.call("GET", "/readyz")[0] == 503:
            threading.Event().wait(0.1)


class Running(Caller):
    """A service in a thread."""

    def __init__(self, service: Service, port: int):
        super().__init__(port)
        self.service = service


@contextmanager
def running(service: Service):
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(application(service), log_config=None, ws="none", server_header=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield Running(service, listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


class Process(Caller):
    """A service in a process of its own, which listens and has the token.

    said: all that it has written, a line each.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], folder: Path | None = None):
        self.process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            env={**env, "P5JAX_TOKEN": TOKEN},
            cwd=folder,
        )
        self.said: list[str] = []
        listening: queue.Queue[int] = queue.Queue()

        def read() -> None:
            for line in self.process.stderr:
                self.said.append(line)
                if '"listening"' in line:
                    listening.put(json.loads(line)["port"])
            listening.put(0)

        self._reader = threading.Thread(target=read)
        self._reader.start()
        super().__init__(listening.get(timeout=120))
        assert self.port, self.said

    @staticmethod
    def of(*words: object, port: int = 0) -> Process:
        """`p5jax serve` with these words."""
        command = [sys.executable, "-m", "p5jax.cli.main", "serve", *map(str, words)]
        return Process([*command, "--port", str(port)], os.environ)

    def ended(self, number: signal.Signals) -> int:
        """The exit status after a signal."""
        self.process.send_signal(number)
        status = self.process.wait(60)
        self._reader.join()
        return status
