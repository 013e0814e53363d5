"""No pattern takes more than linear time on runs of the characters that it speaks of."""

from __future__ import annotations

import ast
import importlib
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from test_architecture import SOURCES, TREES

LENGTH, LONGEST = 10_000, 0.1  # seconds; what is quadratic takes more
METHODS = ("search", "match", "fullmatch", "findall", "finditer", "split", "sub")
# Use -> why its pattern may take longer.
LONGER = {"p5jax.data.readers.sequences.ITEM.findall": "its text is one that LIST matched"}
EXTRAS = ("p5jax.tasks", "p5jax.data.tfds", "p5jax.core.beam")  # not imported


def uses(name: str) -> Iterator[tuple[str, re.Pattern[Any], str]]:
    """Each use of a pattern in a module: where, the pattern and the method that is called."""
    module = None
    for node in ast.walk(TREES[name]):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        method, on = node.func.attr, ast.unparse(node.func.value)
        if method in METHODS and on == "re" and isinstance(node.args[0], ast.Constant):
            yield f"{name}:{node.lineno}", re.compile(node.args[0].value), method
        elif method in METHODS and on.isidentifier() and on.isupper():
            module = module or importlib.import_module(name)
            if isinstance(getattr(module, on), re.Pattern):
                yield f"{name}.{on}", getattr(module, on), method


USES = {
    f"{where}.{method}": (pattern, method)
    for name in SOURCES
    if not name.startswith(EXTRAS)
    for where, pattern, method in uses(name)
}


def runs(pattern: str) -> set[str]:
    """Runs of each character and word of a pattern, and of what its classes hold."""
    signs = set(re.sub(r"\\.|[\[\](){}?*+|^]", " ", pattern)) | set("a1 \n\t.\"'\\<>-_,")
    words = set(re.findall(r"\w{2,}", pattern))
    units = signs | words | {f"{word} " for word in words} | {f"a{sign}" for sign in signs}
    return units | {"1 ", " \n", "'\\", '"\\', "\\'", '\\"', "'a',"}


def test_the_patterns_of_the_readers_are_found():
    assert {
        "p5jax.data.feature_words.WORD.findall",
        "p5jax.data.readers.sequences.LIST.fullmatch",
        "p5jax.data.readers.amazon.ITEM_KEY.findall",
        *LONGER,
    } <= set(USES)


@pytest.mark.parametrize("use", sorted(USES.keys() - LONGER.keys()))
def test_a_pattern_takes_linear_time(use):
    pattern, method = USES[use]
    call = getattr(pattern, method)
    binary = isinstance(pattern.pattern, bytes)
    for unit in runs(pattern.pattern.decode() if binary else pattern.pattern):
        run = (unit * LENGTH)[:LENGTH]
        for written in (run, f"{unit[0]}{run}\0"):
            text = written.encode() if binary else written
            start = time.process_time()
            result = call("", text) if method == "sub" else call(text)
            list(result) if method == "finditer" else result
            took = time.process_time() - start
            assert took < LONGEST, f"{LENGTH:,} of {unit!r}: {took:.1f} s"
