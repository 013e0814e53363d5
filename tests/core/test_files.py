"""A file that is replaced is there whole, or as it was before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p5jax.core.errors import UserError
from p5jax.core.files import (
    claim_replacing,
    remove_left_overs,
    replace_text,
    replaced,
    replaced_folder,
)

WRITE = """
import sys
from p5jax.core import files
with getattr(files, sys.argv[1])(sys.argv[2]) as beside:
    (beside / "a" if beside.is_dir() else beside).write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["replaced", "replaced_folder"])
def being_written(request, tmp_path):
    """A path that another process is writing, and the process."""
    path = tmp_path / "made"
    other = subprocess.Popen(
        [sys.executable, "-c", WRITE, request.param, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "writing\n"
    yield path, other, {"replaced": replaced, "replaced_folder": replaced_folder}[request.param]
    other.kill()
    other.communicate()


def test_a_file_is_renamed_once_it_is_written(tmp_path):
    path = tmp_path / "table.parquet"
    replace_text(path, "old")
    with replaced(path) as beside:
        assert beside.parent == tmp_path
        assert beside.name.startswith(".")
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "table.parquet"
    replace_text(path, "old")

    def stopped():
        with replaced(path) as beside:
            beside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_holds_the_text_already_stays_as_it_is(tmp_path):
    path = tmp_path / "run.json"
    replace_text(path, "é")
    os.utime(path, ns=(10**18, 10**18))
    replace_text(path, "é")
    assert path.stat().st_mtime_ns == 10**18
    replace_text(path, "è")
    assert path.read_bytes() == "è".encode()


def test_a_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "data"
    for text in ("old", "new"):
        with replaced_folder(path) as beside:
            assert beside.name.startswith(".")
            (beside / text).write_text(text)
    assert [each.name for each in tmp_path.iterdir()] == ["data"]
    assert [each.name for each in path.iterdir()] == ["new"]
    with pytest.raises(FileNotFoundError), replaced_folder(path) as beside:
        (beside / "half").rename("/nowhere/at/all")
    assert [each.name for each in tmp_path.iterdir()] == ["data"]
    assert [each.name for each in path.iterdir()] == ["new"]


def test_what_a_living_process_writes_is_left_to_it(being_written, tmp_path):
    path, other, write = being_written
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught, write(path):
        pass
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith("; wait until it ends")
    remove_left_overs(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    other.communicate("")
    assert [each.name for each in tmp_path.iterdir()] == ["made"]
    assert (path / "a" if path.is_dir() else path).read_text() == "half"  # that was all of it


def test_what_a_killed_process_was_writing_is_removed(being_written, tmp_path):
    path, other, write = being_written
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert [each.name for each in tmp_path.iterdir()] == [".made.partial"]
    with write(path) as beside:
        if beside.is_dir():
            assert [each.name for each in beside.iterdir()] == [".lock"]
        else:
            beside.write_text("whole")
    assert [each.name for each in tmp_path.iterdir()] == ["made"]


def test_left_overs_of_a_killed_process_are_removed(being_written, tmp_path):
    _, other, _ = being_written
    other.send_signal(signal.SIGKILL)
    other.wait()
    (tmp_path / ".hidden").write_text("mine")
    remove_left_overs(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == [".hidden"]


def test_left_overs_that_cannot_be_opened_are_passed_over(tmp_path, monkeypatch):
    """A link to nowhere, and a file that its process renames just before it is opened."""
    for name in (".a.partial", ".b.partial", ".c.partial"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".link.partial").symlink_to(tmp_path / "nowhere")
    is_dir = Path.is_dir

    def renamed_before(path):
        if path.name == ".b.partial":
            path.rename(tmp_path / "b")
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", renamed_before)
    remove_left_overs(tmp_path)
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == [".link.partial", "b"]


def test_a_folder_that_was_moved_aside_comes_back(tmp_path):
    """A process was killed between the two renames."""
    (tmp_path / ".data.old").mkdir()
    (tmp_path / ".data.old" / "a").write_text("a")
    with pytest.raises(KeyError), replaced_folder(tmp_path / "data"):
        raise KeyError
    assert [each.name for each in tmp_path.iterdir()] == ["data"]
    assert (tmp_path / "data" / "a").read_text() == "a"


def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "data", "/proc/data"):
        with pytest.raises(OSError, match="(?i)not a directory|no such file|permission"):
            claim_replacing(path)


def test_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "table"
    (tmp_path / ".table.partial").symlink_to("/dev/full")
    with pytest.raises(UserError) as caught, replaced(path) as beside:
        beside.write_bytes(b"x" * 100_000)
    assert str(caught.value) == f"{path}: could not be written (No space left on device)"
    assert list(tmp_path.iterdir()) == []
