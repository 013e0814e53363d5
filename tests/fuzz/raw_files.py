"""Raw data: what each reader makes of it, and the sequences that it plainly says."""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from kind import Kind

import p5jax

K_CORE = 3
PLAIN = re.compile(r"[A-Za-z0-9]+( [A-Za-z0-9]+)*")


def raw_kinds(worlds: Path) -> list[Kind]:
    def kind(format: str, file: str, reading: Callable[[Path], Any]) -> Kind:
        opened = partial(_prepared, format)
        return Kind(f"{format} {file}", worlds / format, (file,), opened, reading)

    def unchanged(format: str, titles: Callable[[Path], Any]) -> Callable[[Path], Any]:
        sequences = _prepared(format, worlds / format)["sequences"]
        return lambda folder: _with_titles(sequences, titles(folder))

    return [
        kind("recbole", "w.inter", _recbole),
        kind("recbole", "w.item", unchanged("recbole", _recbole_titles)),
        kind("recbole", "w.user", unchanged("recbole", lambda folder: {})),
        kind("amazon", "reviews.json", _amazon),
        kind("amazon", "metadata.json", unchanged("amazon", _amazon_titles)),
        kind("amazon", "features.txt", unchanged("amazon", lambda folder: {})),
        kind("sequences", "sequences.txt", _sequences),
        kind("sequences", "datamaps.json", _sequences),
        kind("sequences", "items.txt", _sequences),
        kind("table", "t.csv", _table),
        kind("table", "items.json", unchanged("table", _table_titles)),
        Kind(
            "table t.parquet",
            worlds / "table",
            ("t.parquet",),
            lambda folder: _sequences_of("table", folder, interactions=folder / "t.parquet"),
            lambda folder: None,
        ),
    ]


def _prepared(format: str, folder: Path) -> dict[str, Any]:
    files: dict[str, Any] = {
        "recbole": {"folder": folder},
        "amazon": {
            "reviews": folder / "reviews.json",
            "metadata": folder / "metadata.json",
            "feature_words": folder / "features.txt",
        },
        "sequences": {
            "sequences": folder / "sequences.txt",
            "datamaps": folder / "datamaps.json",
            "items": folder / "items.txt",
        },
        "table": {"interactions": folder / "t.csv", "items": folder / "items.json"},
    }[format]
    return _sequences_of(format, folder, **files)


def _sequences_of(format: str, folder: Path, /, **files: Any) -> dict[str, Any]:
    dataset = p5jax.prepare(format, folder.parent / "prepared", k_core=K_CORE, **files)
    keys = np.array(dataset.item_keys, object)
    sequences = {
        user: keys[dataset.sequence_items[start:stop]].tolist()
        for user, start, stop in zip(
            dataset.user_keys, dataset.offsets, dataset.offsets[1:], strict=False
        )
    }
    titles = dict(zip(dataset.item_keys, dataset.titles, strict=True))
    return {"sequences": sequences, "titles": _Titles(titles)}


class _Titles:
    """Titles by key; equal to those of a reading that is sure only of some."""

    def __init__(self, titles: dict[str, str | None]) -> None:
        self.titles = titles

    def __eq__(self, other: object) -> bool:
        sure = other.titles if isinstance(other, _Titles) else {}
        return all(
            self.titles.get(key) == title for key, title in sure.items() if key in self.titles
        )

    def __hash__(self) -> int:
        return 0

    def __str__(self) -> str:
        return str(self.titles)


def _with_titles(sequences: Any, titles: dict[str, str] | None) -> Any:
    return None if titles is None else {"sequences": sequences, "titles": _Titles(titles)}


def _plain_text(file: Path) -> str | None:
    """The text of a file without anything that can be read in two ways; else None."""
    try:
        text = file.read_bytes().decode("utf-8")
    except ValueError:
        return None
    return None if re.search(r"[\"'\0\ufeff\x80-\U0010ffff]", text) else text.replace("\r\n", "\n")


def _core(rows: list[tuple[str, str, float]]) -> dict[str, Any] | None:
    """Sequences of the k-core of (user, item, time), each pair's earliest row kept."""
    sequences: dict[str, list[str]] = {}
    for user, item in _core_times(rows):
        sequences.setdefault(user, []).append(item)
    return _with_titles(sequences, {})


def _core_times(rows: list[tuple[str, str, float]]) -> dict[tuple[str, str], float]:
    """The times of the pairs of the k-core, in their order, of each pair the earliest."""
    earliest: dict[tuple[str, str], tuple[float, int]] = {}
    for place, (user, item, when) in enumerate(rows):
        earliest.setdefault((user, item), (when, place))
        earliest[user, item] = min(earliest[user, item], (when, place))
    pairs = sorted(earliest, key=earliest.__getitem__)
    while True:
        users, items = (collections.Counter(pair[side] for pair in pairs) for side in (0, 1))
        kept = [p for p in pairs if users[p[0]] >= K_CORE and items[p[1]] >= K_CORE]
        if kept == pairs:
            break
        pairs = kept
    return {pair: earliest[pair][0] for pair in pairs}


_KEY = re.compile(r"[A-Za-z][A-Za-z0-9]*|[1-9][0-9]{0,11}")


def _recbole(folder: Path) -> Any:
    text = _plain_text(folder / "w.inter")
    header, *lines = (text or "").split("\n")
    if text is None or header != "user_id:token\titem_id:token\trating:float\ttimestamp:float":
        return None
    rows = []
    for line in filter(None, lines):
        cells = line.split("\t")
        if len(cells) != 4 or not all(map(_KEY.fullmatch, (*cells[:2], cells[3]))):
            return None
        rows.append((cells[0], cells[1], float(cells[3])))
    return _core(rows)


def _table(folder: Path) -> Any:
    rows = _table_lines(folder)
    return None if rows is None else _core(rows)


def table_rows(folder: Path) -> dict[tuple[str, str], float] | None:
    """The pairs of the k-core of a plain table, and their times; else None."""
    rows = _table_lines(folder)
    return None if rows is None else _core_times(rows)


def _table_lines(folder: Path) -> list[tuple[str, str, float]] | None:
    text = _plain_text(folder / "t.csv")
    header, *lines = (text or "").split("\n")
    if text is None or header != "user,item,stars,ts":
        return None
    rows = []
    for line in filter(None, lines):
        cells = line.split(",")
        if len(cells) != 4 or not all(map(_KEY.fullmatch, (*cells[:2], cells[3]))):
            return None
        rows.append((cells[0], cells[1], float(cells[3])))
    return rows


def _table_titles(folder: Path) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for record in _records(folder / "items.json") or []:
        key, title = record.get("id"), record.get("title")
        if set(record) != {"id", "title"} or not isinstance(key, str) or key in found:
            return None
        if _sure_title(title):
            found[key] = title
    return found


def _recbole_titles(folder: Path) -> dict[str, str] | None:
    text = _plain_text(folder / "w.item")
    header, *lines = (text or "").split("\n")
    if text is None or header != "item_id:token\ttitle:token_seq\tbrand:token\tprice:float":
        return None
    found: dict[str, str] = {}
    for cells in (line.split("\t") for line in lines if line):
        if len(cells) != 4 or not _KEY.fullmatch(cells[0]) or cells[0] in found:
            return None
        if _sure_title(cells[1]):
            found[cells[0]] = cells[1]
    return found


def _sure_title(text: Any) -> bool:
    """Whether a title means itself to everyone: words that no reader takes for a missing value."""
    return isinstance(text, str) and bool(PLAIN.fullmatch(text)) and text.startswith("Thing")


def _records(file: Path) -> list[dict[str, Any]] | None:
    try:
        lines = file.read_bytes().decode("utf-8").split("\n")
        records = [json.loads(line) for line in lines if line.strip()]
    except (ValueError, RecursionError):
        return None
    return records if all(isinstance(record, dict) for record in records) else None


def _amazon(folder: Path) -> Any:
    rows = []
    for record in _records(folder / "reviews.json") or [{}]:
        user, item, when = (record.get(k) for k in ("reviewerID", "asin", "unixReviewTime"))
        if not all(isinstance(key, str) and _KEY.fullmatch(key) for key in (user, item)):
            return None
        if type(when) is not int or not 10**8 < when < 4 * 10**9:
            return None
        rows.append((user, item, when))
    return _core(rows)


def _amazon_titles(folder: Path) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for record in _records(folder / "metadata.json") or []:
        key, title = record.get("asin"), record.get("title")
        if isinstance(key, str) and key not in found and _sure_title(title):
            found[key] = title
        else:
            found.pop(key if isinstance(key, str) else "", None)
    return found


def _sequences(folder: Path) -> Any:
    """Sequences by the numbers' keys, titles by the table's."""
    text = _plain_text(folder / "sequences.txt")
    table = _plain_text(folder / "items.txt")
    maps = _records_whole(folder / "datamaps.json")
    if text is None or table is None or maps is None:
        return None
    rows = []
    for line in filter(str.strip, text.split("\n")):
        user, *items = line.split()
        for place, item in enumerate(items):
            key_of = maps["id2user"].get(user), maps["id2item"].get(item)
            if not all(isinstance(key, str) and _KEY.fullmatch(key) for key in key_of):
                return None
            rows.append((*key_of, place))
    users = [line.split()[0] for line in text.split("\n") if line.strip()]
    if len(set(users)) < len(users):
        return None
    return _core(rows)


def _records_whole(file: Path) -> dict[str, Any] | None:
    try:
        maps = json.loads(file.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    sides = [maps.get(name) if isinstance(maps, dict) else None for name in ("id2user", "id2item")]
    return maps if all(isinstance(side, dict) for side in sides) else None
