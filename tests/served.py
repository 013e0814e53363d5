"""A small run with random parameters that tests put to use, in Python and over HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import jax
import uvicorn
from small_model import RUN_MODEL

from p5jax.data.dataset import Dataset
from p5jax.models.t5 import init_params
from p5jax.prompts.families import FamilyConfig
from p5jax.runs.run import Run, RunConfig
from p5jax.serving.http.app import application
from p5jax.serving.http.service import Service

TOKEN = "open-sesame"


def served_run(dataset: Dataset, folder: Path, *prompts: str, max_source: int = 256) -> Run:
    """A run of a dataset whose answers differ between prompts and users."""
    config = RunConfig(str(dataset.path), str(folder), prompts=prompts, vocabulary_size=600)
    run = Run.create(config, FamilyConfig(max_source=max_source, num_candidates=4), RUN_MODEL)
    run.write()
    params = init_params(run.model, jax.random.key(0))
    params["token_embedder"]["embedding"] *= 20
    return run.with_params(params)


class Running:
    """A service in a thread, and what callers of it see."""

    def __init__(self, service: Service, listening: socket.socket):
        self.service, self.port = service, listening.getsockname()[1]

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


@contextmanager
def running(service: Service):
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(application(service), log_config=None, ws="none", server_header=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield Running(service, listening)
    finally:
        server.should_exit = True
        thread.join()
