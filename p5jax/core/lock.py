"""The lock of a folder: one process works on it at a time, and a killed one's is taken over.

The lock is the file `.lock` in the folder, made by an exclusive open, which NFS knows too. It says
which process of which machine holds it. On the machine of its holder a lock is left over when the
process is gone; elsewhere when it gives no sign of life: a holder touches its locks at intervals.
A lock names its folder, since a copy of a folder that is being worked on brings a lock along.
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
    """A process: its machine and container, its number there, when it started, what it holds.

    host and command are for people. folder: resolved, and its inode, "" and 0 where not known.
    """

    host: str
    machine: str
    pid: int
    started: str
    command: str
    folder: str = ""
    inode: int = 0

    @staticmethod
    def of(folder: Path) -> Holder:
        """Return this process as the holder of a folder."""
        host, command = socket.gethostname(), " ".join([Path(sys.argv[0]).name, *sys.argv[1:3]])
        number, where = os.getpid(), str(folder.resolve())
        started, inode = _started(number), folder.stat().st_ino
        return Holder(host, _machine(host), number, started, command, where, inode)

    def holds(self, folder: Path) -> bool:
        """Return whether it made its lock in this folder, and not in one that this is a copy of.

        A folder that was moved keeps its inode; some network file systems keep only the path.
        """
        known = (self.folder, self.inode) != ("", 0)
        same = folder.stat().st_ino == self.inode or str(folder.resolve()) == self.folder
        return same or not known

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
    """A lock of this process: its text, the times of its folder before and with it, who made it."""

    pid: int
    text: str
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
                text = _write(folder / LOCK)
                break
            holder, text = found
            lives = holder.lives() if holder else None
            if lives is False or (holder and not holder.holds(folder)):
                _take_away(folder / LOCK, text)
                continue
        if lives or _moves(folder / LOCK, patience):
            raise UserError(f"{name or folder}: {_who(holder)} works on it; wait until it ends")
        _take_away(folder / LOCK, text)
    _held[folder] = _Held(os.getpid(), text, before, folder.stat().st_mtime_ns, made)
    if not _beating.is_set():
        _beating.set()
        threading.Thread(target=_beat, name="locks", daemon=True).start()


def release(folder: str | os.PathLike[str]) -> None:
    """Unlock a folder; where nothing else changed in it, not even its time tells of the lock.

    A lock that another process has made since, because this one gave no sign of life, stays.
    """
    folder = Path(folder).absolute()
    held = _held.pop(folder, None)
    if held is None or held.pid != os.getpid():
        return
    with contextlib.suppress(OSError), _alone(folder):
        found = _read(folder / LOCK)
        if found and found[1] != held.text:
            return
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
        give_sign()


def give_sign() -> None:
    """Touch the locks of this process, but none that another process has made since."""
    for folder, held in [*_held.items()]:
        with contextlib.suppress(OSError):
            found = _read(folder / LOCK)
            if found and found[1] == held.text:
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


def _write(lock: Path) -> str:
    """Make a lock of this process, and return its text."""
    text = json.dumps(asdict(Holder.of(lock.parent)))
    try:
        with lock.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise
    except OSError:
        lock.unlink(missing_ok=True)
        raise
    return text


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
