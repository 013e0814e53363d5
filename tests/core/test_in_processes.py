"""Parts of the data over processes: the same order, the same results, errors where they belong."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest

from p5jax.core import processes
from p5jax.core.errors import UserError
from p5jax.core.processes import in_processes


@pytest.fixture(autouse=True)
def two(monkeypatch):
    monkeypatch.setattr(processes, "process_count", lambda: 2)


def square(number: int) -> tuple[int, int]:
    if number == 13:
        raise UserError("found 13, expected luck")
    return number * number, os.getpid()


def test_results_stand_beside_their_parts_in_order_and_come_from_elsewhere():
    found = list(in_processes(square, range(12)))
    assert [(part, result) for part, (result, _) in found] == [(n, n * n) for n in range(12)]
    assert os.getpid() not in {pid for _, (_, pid) in found}


@pytest.mark.parametrize("parts", [0, 1])
def test_one_part_starts_no_process(parts):
    assert [pid for _, (_, pid) in in_processes(square, range(parts))] == [os.getpid()] * parts


def test_an_error_of_a_part_is_raised():
    with pytest.raises(UserError, match="found 13, expected luck"):
        list(in_processes(square, range(10, 40)))


def test_what_fails_in_making_parts_comes_behind_what_was_made():
    def parts():
        yield from range(5)
        raise UserError("found the end of the file")

    found = in_processes(square, parts())
    assert [result for _, (result, _) in itertools.islice(found, 5)] == [0, 1, 4, 9, 16]
    with pytest.raises(UserError, match="end of the file"):
        next(found)


@pytest.mark.check
def test_a_script_without_a_main_guard_is_not_run_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from p5jax.core import processes\n"
        "processes.process_count = lambda: 2\n"
        "print('begins')\n"
        "for part, length in processes.in_processes(len, ['a', 'bb', 'ccc']):\n"
        "    print(part, length)\n"
        "    if length == 2:\n"
        "        break\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "begins\na 1\nbb 2\n")
    assert done.stderr == ""
