"""A service under load on loopback: latency, throughput, refusals and memory.

    python benchmarks/serving.py RUN [--seconds 10] [--beam 64] [--rows 16] [--concurrency 1 8 64]

Starts `p5jax serve RUN` in a process of its own, waits until it is ready, and asks about random
users of its dataset, k = 10, from as many threads as each level of concurrency says. Client and
service share the machine's cores. Then twice as many callers as the queue has room for: everything
must be answered or refused with 429. Prints a line of JSON for each level.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from hardware import available_cores, describe, warn_if_busy

QUEUE = 128


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each level")
    parser.add_argument("--beam", type=int, default=64)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 64])
    arguments = parser.parse_args()
    from p5jax.runs.run import Run

    users = Run.load(arguments.run).dataset.user_keys
    print(describe(available_cores()), file=sys.stderr)
    warn_if_busy()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = ("--port", str(port), "--beam", str(arguments.beam), "--rows", str(arguments.rows))
    command = [sys.executable, "-m", "p5jax.cli.main", "serve", arguments.run, *settings]
    with subprocess.Popen([*command, "--queue", str(QUEUE)], stderr=subprocess.DEVNULL) as process:
        try:
            began = time.monotonic()
            while ask(port, "GET", "/readyz")[0] != 200:
                if process.poll() is not None:
                    sys.exit("the service ended before it was ready")
                time.sleep(0.2)
            print(json.dumps({"ready_s": round(time.monotonic() - began, 1)}))
            for callers in (*arguments.concurrency, 2 * QUEUE):
                found = level(port, users, callers, arguments.seconds)
                print(json.dumps({**found, "rss_mib": resident(process.pid)}), flush=True)
        finally:
            process.terminate()


def level(port: int, users: list[str], callers: int, seconds: float) -> dict[str, Any]:
    """Ask from `callers` threads for some seconds."""
    until = time.monotonic() + seconds
    taken: list[float] = []
    statuses: dict[int, int] = {}
    lock = threading.Lock()

    def call(seed: int) -> None:
        chosen = random.Random(seed)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.monotonic() < until:
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
                time.sleep(0.05)
        connection.close()

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p99 = np.percentile(taken, [50, 99]) * 1000 if taken else (np.nan, np.nan)
    rate = len(taken) / seconds
    return {
        "callers": callers,
        "answers_per_s": round(rate, 1),
        "p50_ms": round(float(p50), 1),
        "p99_ms": round(float(p99), 1),
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


def resident(pid: int) -> int:
    """The memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


if __name__ == "__main__":
    main()
