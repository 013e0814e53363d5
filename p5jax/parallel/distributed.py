"""Several processes as one: found, started, in agreement where it matters, and ended together.

Process 0 is the primary: it alone writes files and progress. In one process all of this is nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

# Private, for want of public names: which cluster JAX detects, before it is joined, and the
# coordinator's client, which takes values that are no arrays and waits with an end.
from jax._src import distributed as jax_distributed
from jax._src.clusters import ClusterEnv
from jax.experimental import multihost_utils

from p5jax.core.errors import Interrupted, UserError, in_words
from p5jax.core.printing import one_line
from p5jax.core.progress import print_progress

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
DEVICES = "JAX_LOCAL_DEVICE_IDS"
START_SECONDS = 300  # in which all processes must have come
HEARTBEAT_SECONDS = 60  # without a sign of life, after which a process counts as lost
_LEAVE_SECONDS = 5  # in which processes that fail alike meet
_group = jax_distributed.global_state
_LOST = re.compile(
    r"gloo|nccl|coordination|heartbeat|UNAVAILABLE|DEADLINE_EXCEEDED|connection (reset|closed)|"
    r"socket closed|barrier",
    re.IGNORECASE,
)


class Group(NamedTuple):
    """The processes to start: who told of them, the coordinator's HOST:PORT, how many there are,
    which one this is, and the local devices it may use (None: all)."""

    source: str
    address: str
    processes: int
    process: int
    devices: Sequence[int] | None = None


# ---- starting ----


def start(timeout: int = START_SECONDS) -> None:
    """Join the other processes, if there are any; call it before JAX touches a device.

    They are told of by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, else by what
    JAX detects (SLURM, Open MPI, Cloud TPU, GKE). On CPU they talk by gloo. UserError for
    variables that are wrong or missing, and a coordinator that does not answer in `timeout` s.
    """
    if _group.client is not None:
        return
    group = from_environment() or from_cluster(timeout)
    if group is None:
        return
    deadline = time.monotonic() + timeout
    _check_coordinator(group, deadline)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # JAX's preemption service would swallow SIGTERM, which is p5jax's own to answer.
    jax.config.update("jax_enable_preemption_service", False)
    _group.process_id, _group.num_processes = group.process, group.processes
    _keep_stdout_clean()
    _explain_aborts()
    jax.distributed.initialize(
        group.address,
        group.processes,
        group.process,
        group.devices,
        initialization_timeout=max(1, round(deadline - time.monotonic())),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        cluster_detection_method="deactivate",
    )
    report(f"{group.processes} processes, by {group.source}; coordinator {group.address}")


def from_environment() -> Group | None:
    """The group that the three variables describe; None without them, or of one process."""
    given = {name: os.environ[name] for name in (ADDRESS, COUNT, INDEX) if os.environ.get(name)}
    if not given:
        return None
    for name in (ADDRESS, COUNT, INDEX):
        if name not in given:
            raise UserError(
                f"{name}: not set, expected all of {ADDRESS}, {COUNT} and {INDEX}, or none "
                f"(found {', '.join(given)})"
            )
    if not re.fullmatch(r"\S+:\d+", given[ADDRESS]):
        raise UserError(f"{ADDRESS}: found {given[ADDRESS]!r}, expected HOST:PORT")
    for name, least in ((COUNT, 1), (INDEX, 0)):
        if not given[name].isdecimal() or int(given[name]) < least:
            raise UserError(f"{name}: found {given[name]!r}, expected a number from {least}")
    count, index = int(given[COUNT]), int(given[INDEX])
    if index >= count:
        raise UserError(f"{INDEX}: found {index}, expected 0 to {count - 1} ({COUNT} is {count})")
    return Group(ADDRESS, given[ADDRESS], count, index) if count > 1 else None


def from_cluster(timeout: int) -> Group | None:
    """The group that JAX detects; None without one, or of one process."""
    known = [env for env in ClusterEnv._cluster_types if not env.opt_in_only_method]
    found = next((env for env in known if env.is_env_present()), None)
    if found is None:
        return None
    try:
        count = found.get_process_count()
        if count == 1:  # as in an interactive shell: nothing to start, all devices are ours
            return None
        wanted = os.environ.get(DEVICES)  # launch/slurm.sh: one process, all of a node's GPUs
        local = [int(number) for number in wanted.split(",")] if wanted else None
        address, _, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
            None, count, None, local, found.name, timeout
        )
    except Exception as error:  # each cluster has errors of its own
        raise UserError(
            f"{found.name}: found this cluster, but not its processes ({error!r}); set {ADDRESS}, "
            f"{COUNT} and {INDEX}"
        ) from error
    if address is None or index is None:
        raise UserError(f"{found.name}: found no coordinator, expected one; set {ADDRESS}")
    return Group(found.name, address, count, index, devices)


def _check_coordinator(group: Group, deadline: float) -> None:
    """Raise UserError where JAX itself would abort: a port in use, a coordinator not there."""
    host, port = group.address.rsplit(":", 1)
    if group.process == 0:
        try:
            socket.create_server(("", int(port))).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"{group.address}: cannot serve at this port ({error})") from error
        return
    started = time.monotonic()
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() >= deadline:
                raise UserError(
                    f"{group.address}: no coordinator answers after "
                    f"{time.monotonic() - started:.0f} s ({error}); expected process 0 there"
                ) from error
            time.sleep(0.2)


def _keep_stdout_clean() -> None:
    """Send what Gloo prints to the standard error stream: standard output may be JSON."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors="backslashreplace")
    os.dup2(2, 1)


# ---- agreement ----


def is_primary() -> bool:
    """Whether this is the process that writes."""
    return _group.process_id == 0


def report(line: str) -> None:
    """Write a line of progress, from the primary only."""
    if is_primary():
        print_progress(line)


_answers = itertools.count()


def from_primary(make: Callable[[], Any]) -> Any:
    """The primary's JSON-able `make()`, in every process; the others wait for it, however long.

    Every process must call it. The primary's UserError, or OSError as one, is raised in all.
    """
    if _group.num_processes == 1:
        return make()
    key = f"p5jax/answer/{next(_answers)}"
    if is_primary():
        try:
            answer = {"value": make()}
        except (UserError, OSError) as error:
            answer = {"error": in_words(error)}
        text = json.dumps(answer)
        _client().key_value_set(key, text)
    else:
        text = _wait_for(key)
    answer = json.loads(text)
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["value"]


def _client() -> Any:
    return _group.client


def _wait_for(key: str) -> str:
    while True:  # a second at a time, so that Ctrl-C gets through
        try:
            return str(_client().blocking_key_value_get(key, 1000))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def agreed_signal(number: int | None) -> int | None:
    """The largest signal number that any process has got; every process must call it."""
    if _group.num_processes == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number or 0)))) or None


# ---- ending ----

_where = ""


def reached(where: str) -> None:
    """Note how far the work is ("after step 7"), for the message of a process that must stop."""
    global _where
    _where = f" {where}"


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Within it an error ends this process without waiting for the others, which then end too.

    Processes that fail alike leave by the exception, as a single one does. Otherwise one line is
    written and the process exits at once: 1 when another process is lost, 2 for a UserError.
    Orderly shutdown (of JAX, of a checkpoint being written) would wait for who never comes.
    """
    try:
        yield
    except Interrupted:  # all have agreed on it and end by themselves
        raise
    except BaseException as error:
        if _group.num_processes > 1 and (_is_loss(error) or not _all_leave()):
            _exit_alone(error)
        raise


def _is_loss(error: BaseException) -> bool:
    expected = isinstance(error, UserError | KeyboardInterrupt | SystemExit)
    expected |= isinstance(error, OSError) and bool(error.filename)
    return not expected and bool(_LOST.search(str(error)))


_departures = itertools.count()


def _all_leave() -> bool:
    try:
        _client().wait_at_barrier(f"p5jax/leave/{next(_departures)}", _LEAVE_SECONDS * 1000)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _exit_alone(error: BaseException) -> None:
    status = 1
    if _is_loss(error):
        cause = " ".join(str(error).split())[:300]  # it may be of this process after all
        sys.stderr.write(f"p5jax: {type(error).__name__}: {cause}\n{_lost_line()}")
    elif isinstance(error, UserError | OSError):
        sys.stderr.write(f"p5jax: error: {one_line(in_words(error))}\n")
        status = 2
    elif isinstance(error, KeyboardInterrupt):
        sys.stderr.write("p5jax: interrupted\n")
        status = 130
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _lost_line() -> str:
    return (
        f"p5jax: error: process {_group.process_id} of {_group.num_processes} stops{_where}: "
        "another process has ended or cannot be reached (its own output says why); start all of "
        "them again, and they resume from the last checkpoint\n"
    )


def _explain_aborts() -> None:
    """Let the line that says what to do be the last one when JAX aborts this process.

    JAX does so when the coordinator is gone or a heartbeat fails, from a thread of its own, with a
    stack trace and no way to be asked for less.
    """

    def explain(number: int) -> None:
        os.write(2, f"\n{_lost_line()}".encode())
        os._exit(1)

    kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
    _kept.append(kind(explain))  # for as long as the process lives
    ctypes.CDLL(None).signal(signal.SIGABRT, _kept[-1])


_kept: list[Any] = []
