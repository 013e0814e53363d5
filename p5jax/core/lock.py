"""The lock of a folder: one process works on it at a time, and a killed one's is taken over.

The lock is the file `.lock` in the folder, made by an exclusive open, which NFS knows too. It says
which process of which machine holds it. On the machine of its holder a lock is left over when the
process is gone; elsewhere when it gives no sign of life: a holder touches its locks at intervals.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from p5jax.core.errors import UserError
from p5jax.core.progress import print_progress

LOCK = ".lock"
_BEAT = 10.0  # seconds between two signs of life
_PATIENCE = 60.0  # seconds without one, after which a lock of another machine is left over


@dataclass(frozen=True)
class Holder:
    """A process: its machine and container, its number there, and when it started.

    host and command are for people.
    """

    host: str
    machine: str
    pid: int
    started: str
    command: str

    @staticmethod
    def this() -> Holder:
        """Return this process."""
        host, command = socket.gethostname(), " ".join([Path(sys.argv[0]).name, *sys.argv[1:3]])
        return Holder(host, _machine(host), os.getpid(), _started(os.getpid()), command)

    def lives(self) -> bool | None:
        """Return whether the process is there; None when only its own machine could tell."""
        if self.machine != _machine(socket.gethostname()):
            return None
        return bool(self.started) and _started(self.pid) == self.started


def _machine(host: str) -> str:
    """What makes a process number unique: the machine since it was started, and the container."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    with contextlib.suppress(OSError):
        return f"{host} {boot.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return host


def _started(pid: int) -> str:
    """When a process of this machine started, "" when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "running"


@dataclass(frozen=True)
class _Held:
    """A lock of this process: the times of its folder before and with the lock, and who made it."""

    pid: int
    before: int
    after: int
    made: bool


_held: dict[Path, _Held] = {}
_beating = threading.Event()


def hold(
    folder: str | os.PathLike[str], name: str | os.PathLike[str] = "", patience: float = _PATIENCE
) -> None:
    """Lock a folder, which is made when it is not there, until `release` or the end of the process.

    A folder that this process holds already stays held. UserError when another process holds it,
    which calls the folder `name`. patience: seconds to wait for a sign of life of another machine.
    """
    folder = Path(folder).absolute()
    if folder in _held and _held[folder].pid == os.getpid():
        return
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    before = folder.stat().st_mtime_ns
    while True:
        with _alone(folder):
            found = _read(folder / LOCK)
            if found is None:
                _write(folder / LOCK)
                break
            holder, text = found
            lives = holder.lives() if holder else None
            if lives is False:
                _take_away(folder / LOCK, text)
                continue
        if lives or _moves(folder / LOCK, patience):
            raise UserError(f"{name or folder}: {_who(holder)} works on it; wait until it ends")
        _take_away(folder / LOCK, text)
    _held[folder] = _Held(os.getpid(), before, folder.stat().st_mtime_ns, made)
    if not _beating.is_set():
        _beating.set()
        threading.Thread(target=_beat, name="locks", daemon=True).start()


def release(folder: str | os.PathLike[str]) -> None:
    """Unlock a folder; where nothing else changed in it, not even its time tells of the lock."""
    folder = Path(folder).absolute()
    held = _held.pop(folder, None)
    if held is None or held.pid != os.getpid():
        return
    with contextlib.suppress(OSError):
        unchanged = folder.stat().st_mtime_ns == held.after
        (folder / LOCK).unlink(missing_ok=True)
        if held.made:
            folder.rmdir()  # succeeds where nothing was kept
        elif unchanged:
            os.utime(folder, ns=(time.time_ns(), held.before))


@contextlib.contextmanager
def released() -> Iterator[None]:
    """At its end, release what was locked within it; a decorator too, of what locks folders."""
    before = set(_held)
    try:
        yield
    finally:
        for folder in set(_held) - before:
            release(folder)


@atexit.register
def _release_all() -> None:
    for folder in [*_held]:
        release(folder)


def _beat() -> None:
    while True:
        time.sleep(_BEAT)
        for folder in [*_held]:
            with contextlib.suppress(OSError):
                os.utime(folder / LOCK)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Within it no other process of this machine makes or takes away a lock of the folder."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems know no such lock
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _write(lock: Path) -> None:
    text = json.dumps(asdict(Holder.this()))
    try:
        with lock.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise
    except OSError:
        lock.unlink(missing_ok=True)
        raise


def _read(lock: Path) -> tuple[Holder | None, str] | None:
    """The holder, None if it is not told, and the lock's text; None without a lock."""
    try:
        text = lock.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    try:
        return Holder(**json.loads(text)), text
    except (ValueError, TypeError):  # being written on another machine, or damaged
        return None, text


def _who(holder: Holder | None) -> str:
    if holder is None:
        return "another process"
    return f"process {holder.pid} on {holder.host} ({holder.command})"


def _moves(lock: Path, patience: float) -> bool:
    """Whether a lock of another machine shows a sign of life in time."""
    first, end = _time(lock), time.monotonic() + patience
    print_progress(f"{lock}: waiting for a sign of life of its process")
    while time.monotonic() < end:
        time.sleep(min(1.0, patience / 10))
        if _time(lock) != first:
            return _time(lock) != 0
    return False


def _time(lock: Path) -> int:
    """When a lock was touched, 0 when it is gone; opened, so that NFS asks the server."""
    try:
        with lock.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return 0


def _take_away(lock: Path, text: str) -> None:
    """Remove a lock that is left over, and no other that was made since it was read."""
    aside = lock.with_name(f"{LOCK}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        lock.rename(aside)
        if aside.read_text(encoding="utf-8", errors="replace") != text:
            aside.rename(lock)
        aside.unlink(missing_ok=True)
