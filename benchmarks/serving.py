"""A service under load on loopback: latency, throughput, refusals and memory.

    python benchmarks/serving.py RUN [--seconds 10] [--rounds 1] [--beam 64] [--rows 16]
                                 [--concurrency 1 8 64] [--requests 0] [--transformers]

Starts `p5jax serve RUN` in a process of its own, waits until it is ready, and asks about random
users of its dataset, k = 10, from as many threads as each level of concurrency says. Client and
services share the machine's cores. With --transformers a second process has the same service
around transformers' beam search (parts/transformers_server.py); levels alternate between the two.
Then three times as many callers as the queue has room for, who come again when Retry-After says:
everything must be answered or refused with 429. Then, with --requests, so many from 64 callers,
while the process's memory is read. Prints a line of JSON for each level; `cpu_ms` is the time of
the processor that the service took for an answer, which other work changes less than the clock's.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hardware import available_cores, describe, warn_if_busy

QUEUE = 128
PRODUCT, OTHER = "p5jax", "transformers"
PROGRAMS = {
    PRODUCT: ("-m", "p5jax.cli.main", "serve"),
    OTHER: (str(Path(__file__).parent / "parts" / "transformers_server.py"),),
}


class Served(NamedTuple):
    """A service that is ready: its process and its port."""

    process: int
    port: int

    def resident(self) -> int:
        """Its memory in MiB."""
        pages = int(Path(f"/proc/{self.process}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20

    def worked(self) -> float:
        """The processor's seconds that it has taken."""
        fields = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each level")
    parser.add_argument("--rounds", type=int, default=1, help="of the levels")
    parser.add_argument("--beam", type=int, default=64)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--requests", type=int, default=0, help="of the last part")
    parser.add_argument("--transformers", action="store_true", help="compare; needs torch")
    arguments = parser.parse_args()
    from p5jax.runs.run import Run

    users = Run.load(arguments.run).dataset.user_keys
    print(describe(available_cores()), file=sys.stderr)
    warn_if_busy()
    words = [arguments.run, "--beam", str(arguments.beam), "--rows", str(arguments.rows)]
    names = [PRODUCT, OTHER] if arguments.transformers else [PRODUCT]
    with contextlib.ExitStack() as stack:
        services = {name: stack.enter_context(started(name, words)) for name in names}
        product = services[PRODUCT]
        for turn in range(arguments.rounds):
            for callers in arguments.concurrency:
                for name, service in services.items():
                    found = level(service, users, callers, lasting(arguments.seconds))
                    show(name, service, {"round": turn + 1, **found})
        found = level(product, users, 3 * QUEUE, lasting(arguments.seconds))
        show(PRODUCT, product, found)
        if not set(found["statuses"]) <= {200, 429}:
            sys.exit("a request failed")
        for _ in range(4 if arguments.requests else 0):
            found = level(product, users, 64, counting(arguments.requests // 4))
            show(PRODUCT, product, found)


def show(name: str, service: Served, found: dict[str, Any]) -> None:
    """Print a level's figures."""
    line = {"of": name, **found, "rss_mib": service.resident(), "load": os.getloadavg()[0]}
    print(json.dumps(line), flush=True)


@contextlib.contextmanager
def started(name: str, words: list[str]) -> Iterator[Served]:
    """A service in a process of its own, once it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = ("--port", str(port), "--queue", str(QUEUE), "--seconds", "60")
    command = [sys.executable, *PROGRAMS[name], *words, *settings]
    # Torch's threads would spin while they wait, and take the cores from everything else.
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            began = time.monotonic()
            while ask(port, "GET", "/readyz")[0] != 200:
                if process.poll() is not None:
                    sys.exit(f"the service of {name} ended before it was ready")
                time.sleep(0.2)
            ready = {"of": name, "ready_s": round(time.monotonic() - began, 1)}
            print(json.dumps(ready), flush=True)
            yield Served(process.pid, port)
        finally:
            process.terminate()


def lasting(seconds: float) -> Callable[[], bool]:
    """Whether some seconds have not passed yet."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() < until


def counting(requests: int) -> Callable[[], bool]:
    """Whether it was asked less often than this."""
    left = iter(range(requests))
    return lambda: next(left, None) is not None


def level(
    service: Served, users: list[str], callers: int, more: Callable[[], bool]
) -> dict[str, Any]:
    """Ask from `callers` threads as long as there are more questions."""
    taken: list[float] = []
    statuses: dict[int, int] = {}
    lock = threading.Lock()

    def call(seed: int) -> None:
        chosen = random.Random(seed)
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=120)
        while more():
            body = json.dumps({"user": chosen.choice(users)})
            began = time.monotonic()
            connection.request("POST", "/v1/recommend", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            with lock:
                statuses[answer.status] = statuses.get(answer.status, 0) + 1
                if answer.status == 200:
                    taken.append(time.monotonic() - began)
            if answer.status == 429:
                time.sleep(float(answer.headers["Retry-After"]) * chosen.uniform(0.5, 1.5))
        connection.close()

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(callers)]
    began, worked = time.monotonic(), service.worked()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, worked = time.monotonic() - began, service.worked() - worked
    p50, p99 = np.percentile(taken, [50, 99]) * 1000 if taken else (np.nan, np.nan)
    return {
        "callers": callers,
        "answers_per_s": round(len(taken) / seconds, 1),
        "asked_per_s": round(sum(statuses.values()) / seconds, 1),
        "p50_ms": round(float(p50), 1),
        "p99_ms": round(float(p99), 1),
        "cpu_ms": round(1000 * worked / max(1, len(taken)), 1),
        "statuses": statuses,
    }


def ask(port: int, method: str, path: str) -> tuple[int, bytes]:
    """The status and body of an answer, 0 where nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except ConnectionError:
        return 0, b""
    finally:
        connection.close()


if __name__ == "__main__":
    main()
