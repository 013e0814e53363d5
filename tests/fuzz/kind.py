"""One kind of file that p5jax reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Kind:
    """One kind of file or folder.

    files: those below `folder` that are damaged, one at a time. open: what p5jax makes of them.
    reading: the same made independently, or None where the file's meaning is not plain.
    """

    name: str
    folder: Path
    files: tuple[str, ...]
    open: Callable[[Path], Any]
    reading: Callable[[Path], Any]
