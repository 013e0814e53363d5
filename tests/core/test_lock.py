"""One process at a time works on a folder, and what a killed one left is taken over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from p5jax.core.errors import UserError
from p5jax.core.folder import OutputFolder
from p5jax.core.lock import LOCK, Holder, give_sign, hold, release, released

KIND = OutputFolder("study", "study.json", 3, "p5jax ppr study")
HOLD = (
    "import sys; from p5jax.core.lock import hold; hold(sys.argv[1]);"
    "print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def elsewhere(tmp_path):
    """Another process that holds a folder, and the folder."""
    folder = tmp_path / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "held\n"
    yield other, folder
    other.kill()
    other.communicate()


def tree(folder):
    """All paths below a folder and itself, with contents and times."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [folder, *folder.rglob("*")]
    }


def test_a_second_process_is_refused_in_one_line(elsewhere):
    other, folder = elsewhere
    for refused in (lambda: hold(folder), lambda: KIND.claim(folder, {"data": 1})):
        with pytest.raises(UserError) as caught:
            refused()
        assert str(caught.value).startswith(f"{folder}: process {other.pid} on ")
        assert str(caught.value).endswith(" works on it; wait until it ends")
        assert "\n" not in str(caught.value)
    other.communicate("")  # it ends in good order
    assert not folder.exists()  # nothing was kept in it
    hold(folder)
    release(folder)


def test_what_a_killed_process_held_is_taken_over_at_once(elsewhere):
    other, folder = elsewhere
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (folder / LOCK).exists()
    started = time.monotonic()
    hold(folder)
    assert time.monotonic() - started < 5
    assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
    release(folder)


def test_another_process_of_the_same_number_is_not_the_holder(tmp_path):
    left = replace(Holder.of(tmp_path), started="1")
    (tmp_path / LOCK).write_text(json.dumps(asdict(left)))
    hold(tmp_path)
    assert json.loads((tmp_path / LOCK).read_text()) == asdict(Holder.of(tmp_path))
    release(tmp_path)


@pytest.mark.parametrize("text", ["{", "", "[]", '{"pid": 1}', "\xff\0"])
def test_a_lock_of_another_machine_is_left_over_without_a_sign_of_life(tmp_path, text):
    far = json.dumps(asdict(replace(Holder.of(tmp_path), machine="another")))
    for held in (far, text):
        (tmp_path / LOCK).write_bytes(held.encode("latin-1"))
        hold(tmp_path, patience=0.02)
        assert json.loads((tmp_path / LOCK).read_text())["machine"] == Holder.of(tmp_path).machine
        release(tmp_path)


def test_a_lock_of_another_machine_that_is_touched_is_in_use(tmp_path):
    far = replace(Holder.of(tmp_path), host="far", machine="another", pid=7)
    (tmp_path / LOCK).write_text(json.dumps(asdict(far)))
    touch = threading.Timer(0.1, os.utime, [tmp_path / LOCK])
    touch.start()
    with pytest.raises(UserError, match="process 7 on far .* works on it"):
        hold(tmp_path, patience=2)
    touch.join()
    assert (tmp_path / LOCK).exists()


def test_a_lock_that_another_machine_took_over_is_left_to_it(tmp_path):
    hold(tmp_path)
    far = json.dumps(asdict(replace(Holder.of(tmp_path), machine="another", pid=7)))
    (tmp_path / LOCK).write_text(far)
    os.utime(tmp_path / LOCK, ns=(10**18, 10**18))
    give_sign()
    release(tmp_path)
    assert (tmp_path / LOCK).read_text() == far
    assert (tmp_path / LOCK).stat().st_mtime_ns == 10**18


def test_a_lock_that_is_held_is_touched(tmp_path):
    hold(tmp_path)
    os.utime(tmp_path / LOCK, ns=(10**18, 10**18))
    give_sign()
    assert (tmp_path / LOCK).stat().st_mtime_ns != 10**18
    release(tmp_path)


def test_the_copy_of_a_folder_is_not_locked_and_the_moved_folder_is(elsewhere, tmp_path):
    other, folder = elsewhere
    copied, moved = tmp_path / "copied", tmp_path / "moved"
    shutil.copytree(folder, copied)
    hold(copied)
    release(copied)
    assert (folder / LOCK).exists()
    folder.rename(moved)
    with pytest.raises(UserError, match=f"{moved}: process {other.pid} on "):
        hold(moved)


def test_a_lock_that_names_no_folder_is_its_folders(tmp_path):
    """As earlier versions wrote it."""
    text = json.dumps(asdict(Holder.of(tmp_path)))
    told = {key: value for key, value in json.loads(text).items() if key not in ("folder", "inode")}
    (tmp_path / LOCK).write_text(json.dumps(told))
    with pytest.raises(UserError, match=f"process {os.getpid()} on "):
        hold(tmp_path)


def test_a_lock_leaves_no_trace(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "a").write_text("a")
    os.utime(folder, ns=(10**18, 10**18))
    before = tree(folder)
    hold(folder)
    hold(folder)  # again in this process: nothing changes
    release(folder)
    assert tree(folder) == before
    hold(folder)
    (folder / "b").write_text("b")
    release(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
    assert folder.stat().st_mtime_ns != 10**18


def test_what_is_locked_within_is_released_at_its_end(tmp_path):
    hold(tmp_path)

    @released()
    def work():
        hold(tmp_path)
        hold(tmp_path / "a")
        return os.listdir(tmp_path / "a")

    for _ in range(2):
        assert work() == [LOCK]
        assert os.listdir(tmp_path) == [LOCK]
    release(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_refused_claim_changes_nothing(tmp_path):
    KIND.write(tmp_path, {"data": 1})
    (tmp_path / ".x.partial").write_text("half")
    os.utime(tmp_path, ns=(10**18, 10**18))
    before = tree(tmp_path)
    with pytest.raises(UserError, match="found data = 1, expected 2"):
        KIND.claim(tmp_path, {"data": 2})
    assert tree(tmp_path) == before


@pytest.mark.check
def test_of_many_processes_that_start_at_once_one_holds_the_folder(tmp_path):
    """30 rounds of 6 processes, every second round on a lock that is left over."""
    code = (
        "import sys, time\nfrom p5jax.core.lock import hold\n"
        "from p5jax.core.errors import UserError\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "try:\n    hold(sys.argv[1])\nexcept UserError:\n    print('refused')\n"
        "else:\n    print('held')\n    time.sleep(1)\n"
    )
    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        if number % 2:
            left = replace(Holder.of(tmp_path), started="1")
            (folder / LOCK).write_text(json.dumps(asdict(left)))
        at = str(time.time() + 1.5)
        others = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(folder), at], stdout=subprocess.PIPE, text=True
            )
            for _ in range(6)
        ]
        found = sorted(other.communicate(timeout=60)[0].strip() for other in others)
        assert found == ["held"] + ["refused"] * 5, number
        assert os.listdir(folder) == []
