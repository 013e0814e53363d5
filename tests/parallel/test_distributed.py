"""Which processes belong together, and what is said where they cannot come together."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest

from p5jax.core.errors import UserError
from p5jax.parallel import distributed
from p5jax.parallel.distributed import ADDRESS, COUNT, INDEX, Group, agreed_signal, from_primary

SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "node[003-004],other",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in (ADDRESS, COUNT, INDEX, *SLURM, "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


def describe(monkeypatch, *values: str | None) -> None:
    for name, value in zip((ADDRESS, COUNT, INDEX), values, strict=True):
        if value is not None:
            monkeypatch.setenv(name, value)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_one_process_starts_nothing(monkeypatch):
    import jax

    distributed.start()
    describe(monkeypatch, "host:1", "1", "0")
    distributed.start()
    for name, value in (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}).items():
        monkeypatch.setenv(name, value)  # as in an interactive shell of one task
    distributed.start()
    assert not jax.distributed.is_initialized()
    assert distributed.is_primary()
    assert from_primary(lambda: [1, "two"]) == [1, "two"]
    assert (agreed_signal(None), agreed_signal(15)) == (None, 15)


def test_the_environment_names_the_group(monkeypatch):
    describe(monkeypatch, "10.0.0.1:1234", "4", "3")
    assert distributed.from_environment() == Group(ADDRESS, "10.0.0.1:1234", 4, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("host:1", None, None), f"{COUNT}: not set, expected all of .* (found {ADDRESS})"),
        ((None, "2", "0"), f"{ADDRESS}: not set, expected all of .* (found {COUNT}, {INDEX})"),
        (("host", "2", "0"), f"{ADDRESS}: found 'host', expected HOST:PORT"),
        (("host:1", "two", "0"), f"{COUNT}: found 'two', expected a number from 1"),
        (("host:1", "0", "0"), f"{COUNT}: found '0', expected a number from 1"),
        (("host:1", "2", "-1"), f"{INDEX}: found '-1', expected a number from 0"),
        (("host:1", "2", "2"), f"{INDEX}: found 2, expected 0 to 1 ({COUNT} is 2)"),
    ],
)
def test_variables_that_describe_no_group(monkeypatch, values, message):
    describe(monkeypatch, *values)
    pattern = message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(UserError, match=f"^{pattern}$"):
        distributed.start()


def test_slurm_is_detected(monkeypatch):
    """The first node of the list is process 0's."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    group = distributed.from_cluster(1)
    assert group is not None
    assert group.devices == [0]  # its SLURM_LOCALID
    assert (group.source, group.processes, group.process) == ("slurm", 2, 1)
    host, port = group.address.split(":")
    assert host == "node003"
    assert 1024 < int(port) < 65536
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "0,1,2,3")  # as launch/slurm.sh sets it
    assert distributed.from_cluster(1) == group._replace(devices=[0, 1, 2, 3])
    monkeypatch.setenv("SLURM_NTASKS", "many")
    with pytest.raises(
        UserError, match=rf"^slurm: found this cluster, but .*many.*; set {ADDRESS}"
    ):
        distributed.from_cluster(1)


def test_a_coordinator_that_does_not_answer(monkeypatch):
    address = f"127.0.0.1:{free_port()}"
    describe(monkeypatch, address, "2", "1")
    started = time.monotonic()
    with pytest.raises(
        UserError, match=rf"^{address}: no coordinator answers after \d s .*process 0"
    ):
        distributed.start(timeout=1)
    assert time.monotonic() - started < 10


def test_a_port_in_use(monkeypatch):
    with socket.create_server(("", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        describe(monkeypatch, address, "2", "0")
        with pytest.raises(UserError, match=rf"^{address}: cannot serve at this port"):
            distributed.start(timeout=1)


PROGRAM = """
import os, sys, time
from p5jax.core.errors import UserError
from p5jax.parallel import distributed
mode = sys.argv[1]
distributed.start(timeout=30)
primary = distributed.is_primary()
def answer():
    if mode == "refused":
        raise UserError("file: found this, expected that")
    return {"answer": os.getpid()}
try:
    with distributed.together():
        found = distributed.from_primary(answer)
        print(found["answer"] == os.getpid())
        print(distributed.agreed_signal(None if primary else 15))
        distributed.reached("after step 3")
        if mode == "alone" and not primary:
            raise UserError("only here")
        if mode == "bug" and primary:
            raise KeyError("a bug")
        distributed.agreed_signal(None)
except UserError as error:
    print("all:", error)
    sys.exit(2)
"""


@pytest.mark.check
@pytest.mark.parametrize("mode", ["well", "refused", "alone", "bug"])
def test_a_pair_agrees_and_ends_together(monkeypatch, mode):
    describe(monkeypatch, f"127.0.0.1:{free_port()}", "2", "0")
    pair = []
    for process in range(2):
        monkeypatch.setenv(INDEX, str(process))
        command = [sys.executable, "-u", "-c", PROGRAM, mode]
        pipe = subprocess.PIPE
        pair.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True))
    started = time.monotonic()
    (out_0, err_0), (out_1, err_1) = (process.communicate(timeout=60) for process in pair)
    statuses = [process.returncode for process in pair]
    assert time.monotonic() - started < 40
    lost = "p5jax: error: process {} of 2 stops after step 3: another process has ended"
    if mode == "well":
        assert (statuses, out_0, out_1) == ([0, 0], "True\n15\n", "False\n15\n"), (err_0, err_1)
    elif mode == "refused":
        assert statuses == [2, 2]
        assert out_0 == out_1 == "all: file: found this, expected that\n"
        assert "Check failure" not in err_0 + err_1
    elif mode == "alone":
        assert statuses == [1, 2]
        assert err_1.splitlines()[-1] == "p5jax: error: only here"
        assert lost.format(0) in err_0
    else:
        assert statuses == [1, 1]
        assert "KeyError: 'a bug'" in err_0.splitlines()
        assert lost.format(1) in err_1
