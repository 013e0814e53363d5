"""Whether two results are the same, whatever they are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def first_difference(found: Any, expected: Any, where: str = "result") -> str:
    """Where two nested results first differ, in words; "" where they are the same."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        if set(found) != set(expected):
            extra, missing = set(found) - set(expected), set(expected) - set(found)
            return f"{where}: {len(extra)} keys too many, {len(missing)} missing"
        pairs = [(found[key], expected[key], f"{where}.{str(key)[:20]}") for key in expected]
    elif isinstance(expected, np.ndarray) or isinstance(found, np.ndarray):
        same = np.shape(found) == np.shape(expected) and np.array_equal(
            np.asarray(found),
            np.asarray(expected),
            equal_nan=np.asarray(expected).dtype.kind == "f",
        )
        return "" if same else f"{where}: other values"
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        if len(found) != len(expected):
            return f"{where}: {len(found)} values for {len(expected)}"
        pairs = [
            (a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(found, expected, strict=True))
        ]
    else:
        floats = isinstance(found, float) and isinstance(expected, float)
        same = found == expected or (floats and math.isnan(found) and math.isnan(expected))
        return "" if same else f"{where}: {str(found)[:40]!r} for {str(expected)[:40]!r}"
    return next((text for text in (first_difference(*pair) for pair in pairs) if text), "")
