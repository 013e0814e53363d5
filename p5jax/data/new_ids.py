"""Ids of items that join a catalogue: a function for each way of naming, see p5jax.data.schemes.

Known items keep their ids. A scheme of numbers, or of a token for each item, gives the next ones; a
scheme of clusters gives the path of the nearest cluster and a leaf of it that is free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pkgutil import resolve_name

import numpy as np

from p5jax.core.errors import UserError
from p5jax.data.item_ids import ID_TOKEN
from p5jax.data.new_items import NewItems
from p5jax.data.schemes import SCHEMES, scheme_named

_Leaf = Callable[[str, set[int], np.ndarray], int]  # of a path, not one that is taken, and a vector


def new_ids(items: NewItems) -> list[str]:
    """Return one more id for each new item, unlike all others, by the dataset's scheme.

    UserError for a scheme whose ids only the source can give.
    """
    scheme = items.dataset.id_scheme
    function = scheme_named(scheme).joined
    if not function:
        usable = ", ".join(name for name, each in SCHEMES.items() if each.joined)
        raise UserError(
            f"{items.dataset.path}: found item ids {scheme!r}, which only the source gives to new"
            f" items, expected one of {usable}"
        )
    ids: list[str] = resolve_name(function)(items)
    return ids


def next_numbers(items: NewItems) -> list[str]:
    """Give the numbers after the largest one."""
    largest = max(map(int, items.dataset.item_ids))
    return [str(largest + 1 + item) for item in range(len(items.texts))]


def next_tokens(items: NewItems) -> list[str]:
    """Give each item a token of its own, with the numbers after the largest one."""
    largest = max(_number(text) for text in items.dataset.item_ids)
    return [f"<i0_{largest + 1 + item}>" for item in range(len(items.texts))]


def next_leaves(items: NewItems) -> list[str]:
    """Give the nearest cluster's path and its next leaf: leaves are numbered by popularity."""

    def leaf(path: str, taken: set[int], vector: np.ndarray) -> int:
        return max(taken) + 1

    return _in_clusters(items, leaf)


def nearest_leaves(items: NewItems) -> list[str]:
    """Give the nearest cluster's path and, of the last level's codes that it leaves free, the one
    whose items differ from the middles of their clusters most nearly as this one does.

    Where none is free it is a code of its own.
    """
    ids = items.dataset.item_ids
    vectors, middles = items.vectors[0], _middles(ids, items.vectors[0])
    codes = np.array([_number(text) for text in ids])
    differing = vectors - np.array([middles[_path(text)] for text in ids])
    known = np.unique(codes)
    centres = np.array([differing[codes == code].mean(axis=0) for code in known])

    def leaf(path: str, taken: set[int], vector: np.ndarray) -> int:
        distance = ((centres - (vector - middles[path])) ** 2).sum(axis=1)
        free = [row for row in np.argsort(distance, kind="stable") if known[row] not in taken]
        return int(known[free[0]]) if free else max(taken | set(known.tolist())) + 1

    return _in_clusters(items, leaf)


def _in_clusters(items: NewItems, leaf: _Leaf) -> list[str]:
    """Give each new item the path whose items' mean is nearest to its vector, and a leaf of it."""
    ids, (known, new) = items.dataset.item_ids, items.vectors
    middles = _middles(ids, known)
    paths, centres = list(middles), np.array(list(middles.values()))
    taken: dict[str, set[int]] = {}
    for text in ids:
        taken.setdefault(_path(text), set()).add(_number(text))
    level = {_path(text): ID_TOKEN.findall(text)[-1].partition("_")[0] for text in ids}
    found = []
    for vector in new:
        path = paths[int(((centres - vector) ** 2).sum(axis=1).argmin())]
        number = leaf(path, taken[path], vector)
        taken[path].add(number)
        found.append(f"{path}{level[path]}_{number}>")
    return found


def _middles(ids: Sequence[str], vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Return the mean vector of the items of each path."""
    members: dict[str, list[int]] = {}
    for item, text in enumerate(ids):
        members.setdefault(_path(text), []).append(item)
    return {path: vectors[rows].mean(axis=0) for path, rows in members.items()}


def _path(text: str) -> str:
    """An id without its last token."""
    return text[: text.rindex("<")]


def _number(text: str) -> int:
    """The number of an id's last token."""
    return int(text[text.rindex("_") + 1 : -1])
