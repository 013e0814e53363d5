"""Text files as users have them: compressed under any name, with byte-order marks, not UTF-8."""

from __future__ import annotations

import bz2
import gzip
import lzma

import pyarrow as pa
import pytest

from p5jax.core.errors import UserError
from p5jax.data.readers.lines import LineErrors, read_lines, read_text


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKED = (lambda data: gzip.compress(data, mtime=0), bz2.compress, lzma.compress, zstd)


def lines_of(path) -> list[tuple[int, str]]:
    return list(read_lines(path, LineErrors(skip=False), "lines"))


@pytest.mark.parametrize("pack", [bytes, *PACKED])
def test_compression_is_known_by_its_bytes_and_marks_are_no_text(tmp_path, pack):
    path = tmp_path / "any.name"
    # As `cat` leaves two files that begin with a mark.
    path.write_bytes(pack(b"\xef\xbb\xbfuser\r\n\n\xef\xbb\xbfcaf\xc3\xa9\n"))
    assert lines_of(path) == [(1, "user"), (3, "café")]
    path.write_bytes(pack(b'\xef\xbb\xbf{"a": 1}'))
    assert read_text(path, "JSON") == '{"a": 1}'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"caf\xe9\n", r"found byte 0xe9, expected UTF-8; if it is Latin-1, type iconv -f LATIN1"),
        ("user".encode("utf-16"), r"found UTF-16, expected lines; type iconv -f UTF-16"),
        (b"PK\x03\x04rest", r"found a zip archive, expected lines; type unzip "),
        (b"\x28\xb5\x2f\xfdrest", r"cut short or damaged"),
        (b"BZhrest", r"cut short or damaged"),
        *((pack(b"user" * 100)[:-9], r"cut short or damaged") for pack in PACKED),
    ],
)
@pytest.mark.parametrize("read", [lines_of, lambda path: read_text(path, "lines")])
def test_what_is_no_utf8_text_is_one_line_that_says_what_to_type(tmp_path, data, message, read):
    path = tmp_path / "f.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_line_ends_is_no_table(tmp_path, monkeypatch):
    monkeypatch.setattr("p5jax.data.readers.lines.LONGEST_LINE", 1000)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(5000)))
    with pytest.raises(UserError, match=r"bomb\.gz:1: found more than 1,000 bytes a line"):
        lines_of(path)


@pytest.mark.parametrize(("block", "piece"), [(1, 1), (7, 3), (1000, 5)])
def test_blocks_of_any_size_hold_the_same_lines(tmp_path, monkeypatch, block, piece):
    path = tmp_path / "f.txt"
    path.write_bytes(b"one\r\n\n two\nthree \xc3\xa9\n" + b"x" * 20 + b"\n\nlast")
    whole = lines_of(path)
    monkeypatch.setattr("p5jax.data.readers.lines.BLOCK", block)
    monkeypatch.setattr("p5jax.data.readers.lines.PIECE", piece)
    assert lines_of(path) == whole
    assert [number for number, _ in whole] == [1, 3, 4, 5, 7]


def test_the_whole_lines_before_the_damage_are_read(tmp_path):
    path = tmp_path / "f.gz"
    data = b"".join(b"%d\n" % n for n in range(300_000))  # two megabytes
    path.write_bytes(gzip.compress(data, 1)[:-9])
    found = []
    with pytest.raises(UserError, match=r"the last good line is (\d+) ") as caught:
        found.extend(read_lines(path, LineErrors(skip=False), "lines"))
    assert "last good line is 0 " not in str(caught.value)
