"""Damage and nonsense for files: Hypothesis strategies over bytes, text, JSON and Parquet."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

DEEP = 100_000  # nested brackets: more than any parser's stack
# Each was once a traceback, a hang or a silent change somewhere.
WORDS = (
    *("", " ", "\0", "\ufeff", "\u2028", "\x1b[31m", "\r", '"', "'", '""', "a,b", "a\tb", "a;b"),
    *("nan", "NaN", "None", "null", "inf", "-inf", "true", "1e999", "1e-400", "-0", "-1", "0"),
    *("1", "5", "12.0", "1_000", "0x10", "٣", "𝟝", "½", "9" * 5000, "0.1", "2015-03-01", "-x"),
    *("--help", "../..", "/", "%s", "{iid}", "{0}", "<script>x</script>", "<12 gauge", "&amp;"),
    *("ü", "日本", "😀", "e\u0301", "</s>", "<pad>", "▁", "x" * 70_000, "{" * 2000, " " * 9000),
)
BYTES = (b"\xff\xfe", b"\xed\xa0\x80", b"\x80", b"\xc3", b"\0\0\0\0", b"\n\n", b"\x1f\x8b", b"PK")
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", "x", "nan", "\ud800", "\0", "a" * 70_000, [], {}, [[]]),
    *([None], [1, "a"], {"": {}}, {"a": [1]}, "[" * 50),
)
DEEP_JSON = "@deep@"  # stands for DEEP brackets, which json cannot write


def mutated(draw: Draw, content: bytes, suffix: str) -> bytes:
    """One to three mutations of a file's content, of its structure where it has a known one."""
    for _ in range(draw(st.integers(1, 3))):
        choices = [_bytes, *_STRUCTURES.get(suffix, (_lines,))]
        content = draw(st.sampled_from(choices))(draw, content)
    return content


def _bytes(draw: Draw, content: bytes) -> bytes:
    """Flip a bit, cut, repeat or insert bytes, or encode the whole otherwise."""
    kind = draw(st.sampled_from(("flip", "cut", "truncate", "repeat", "insert", "encode")))
    start = draw(st.integers(0, len(content)))
    stop = min(len(content), start + draw(st.sampled_from((1, 2, 8, 64, 1024))))
    if kind == "flip" and start < len(content):
        flipped = content[start] ^ (1 << draw(st.integers(0, 7)))
        return content[:start] + bytes([flipped]) + content[start + 1 :]
    if kind == "truncate":
        return content[:start]
    if kind == "repeat":
        return content[:stop] + content[start:]
    if kind == "insert":
        words = (*BYTES, *(word.encode() for word in WORDS))
        return content[:start] + draw(st.sampled_from(words)) + content[start:]
    if kind == "encode":
        encode = draw(st.sampled_from((_gzipped, _utf16, _latin1, _marked, _returns)))
        return encode(content)
    return content[:start] + content[stop:]


def _gzipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def _utf16(content: bytes) -> bytes:
    return content.decode("utf-8", "replace").encode("utf-16", "replace")


def _latin1(content: bytes) -> bytes:
    return content.decode("utf-8", "replace").encode("latin-1", "replace")


def _marked(content: bytes) -> bytes:
    return b"\xef\xbb\xbf" + content


def _returns(content: bytes) -> bytes:
    return content.replace(b"\n", b"\r\n")


def _lines(draw: Draw, content: bytes) -> bytes:
    """Change the lines of a text, or the cells of one, split where its lines are split most."""
    lines = content.split(b"\n")
    at = draw(st.integers(0, len(lines) - 1))
    kind = draw(st.sampled_from(("cell", "cell", "cell", "drop", "repeat", "swap", "column")))
    if kind == "drop":
        return b"\n".join(lines[:at] + lines[at + 1 :])
    if kind == "repeat":
        return b"\n".join(lines[: at + 1] + lines[at:])
    if kind == "swap":
        other = draw(st.integers(0, len(lines) - 1))
        lines[at], lines[other] = lines[other], lines[at]
        return b"\n".join(lines)
    mark = max((b"\t", b",", b" ", b"="), key=lambda mark: (mark in lines[at], -_ORDER[mark]))
    cells = lines[at].split(mark)
    place = draw(st.integers(0, len(cells) - 1))
    if kind == "column":
        cells[place : place + 1] = draw(st.sampled_from(([], [cells[place]] * 2)))
    else:
        cells[place] = draw(_word()).encode("utf-8", "surrogatepass")
    lines[at] = mark.join(cells)
    return b"\n".join(lines)


_ORDER = {b"\t": 0, b",": 1, b" ": 2, b"=": 3}


def _word() -> st.SearchStrategy[str]:
    numbers = st.one_of(st.integers().map(str), st.floats().map(repr))
    return st.one_of(st.sampled_from(WORDS), numbers, st.text(max_size=20))


def _json(draw: Draw, content: bytes) -> bytes:
    """Replace, drop, rename or repeat a part of a JSON document, or of one line of several."""
    try:
        return _dumped(_changed(draw, json.loads(content))).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        pass
    lines = content.split(b"\n")
    at = draw(st.integers(0, len(lines) - 1))
    try:
        changed = _dumped(_changed(draw, json.loads(lines[at])), None)
    except (ValueError, RecursionError):
        return _bytes(draw, content)
    lines[at] = changed.encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def _dumped(document: Any, indent: int | None = 1) -> str:
    deep = "[" * DEEP + "]" * DEEP
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    return text.replace(json.dumps(DEEP_JSON), deep)


def _changed(draw: Draw, document: Any) -> Any:
    nodes = [
        (parent, key)
        for parent in _containers(document)
        for key in (list(parent) if isinstance(parent, dict) else range(len(parent)))
    ]
    if not nodes:
        return draw(_value())
    parent, key = draw(st.sampled_from(nodes))
    kind = draw(st.sampled_from(("value", "value", "value", "drop", "add", "text", "whole")))
    if kind == "value":
        parent[key] = draw(_value())
    elif kind == "drop":
        del parent[key]
    elif kind == "text":
        parent[key] = str(parent[key])
    elif kind == "whole":
        return draw(_value())
    elif isinstance(parent, dict):
        parent[draw(_word())] = draw(_value())
    else:
        parent.insert(key, draw(_value()))
    return document


def _containers(document: Any) -> list[Any]:
    found, waiting = [], [document]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict | list):
            found.append(node)
            waiting += node.values() if isinstance(node, dict) else node
    return found


def _value() -> st.SearchStrategy[Any]:
    return st.one_of(st.sampled_from((*VALUES, DEEP_JSON)), st.integers(), st.floats(), _word())


def _parquet(draw: Draw, content: bytes) -> bytes:
    """Change the columns, the rows or single values of a Parquet table."""
    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError):
        return _bytes(draw, content)
    kind = draw(st.sampled_from(("drop", "rename", "type", "null", "value", "rows", "order")))
    if kind == "rows" or not table.num_columns or not table.num_rows:
        table = table.slice(draw(st.integers(0, 3)), draw(st.sampled_from((0, 1, table.num_rows))))
    elif kind == "order":
        order = np.roll(np.arange(table.num_rows), draw(st.integers(0, 3)))
        table = table.take(pa.array(order))
    else:  # by its place: a name can be there twice
        place = draw(st.integers(0, table.num_columns - 1))
        names = table.column_names
        if kind == "drop":
            table = table.remove_column(place)
        elif kind == "rename":
            table = table.rename_columns([*names[:place], draw(_word()), *names[place + 1 :]])
        else:
            changed = _column(draw, table.column(place), kind)
            table = table.set_column(place, names[place], changed)
    buffer = io.BytesIO()
    try:
        pq.write_table(table, buffer)
    except (pa.ArrowException, ValueError):
        return _bytes(draw, content)
    return buffer.getvalue()


def _column(draw: Draw, column: pa.ChunkedArray, kind: str) -> pa.Array:
    values = column.to_pylist()
    if kind == "type":
        return pa.array([None if value is None else repr(value) for value in values], pa.string())
    at = draw(st.integers(0, len(values) - 1))
    new = None if kind == "null" else draw(_value())
    changed = [*values[:at], new, *values[at + 1 :]]
    try:
        return pa.array(changed, column.type)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return pa.array([*values[:at], None, *values[at + 1 :]], column.type)


_STRUCTURES: dict[str, tuple[Callable[[Draw, bytes], bytes], ...]] = {
    ".json": (_json, _json, _json),
    ".jsonl": (_json, _json, _json),
    ".parquet": (_parquet, _parquet, _parquet),
    ".model": (),
    ".pth": (),
    ".safetensors": (),
    "": (),
}
