"""How t5x's programs behave under the gin files of gin/t5x/.

They find those files by their names below gin/, refuse a macro that nothing uses, and end with one
line for a mistake of the user's.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from gin import config as gin  # type: ignore[attr-defined]
from gin import resource_reader  # type: ignore[attr-defined]
from p5jax.core import config
from p5jax.tasks.calls import user_error

_mentioned: set[str] = set()  # the macros that files use, even where a flag takes their place


def _macro(delegate: Any, name: str, make: Callable[..., Any] = gin.ParserDelegate.macro) -> Any:
    _mentioned.add(name)
    return make(delegate, name)


def _refuse_unused_macros(bindings: Mapping[tuple[str, str], Any]) -> None:
    if any(name.endswith("t5x.part_of") for _, name in bindings):  # a configuration of gin/t5x/
        config.refuse_unused_macros(_mentioned)


def _is_resource(path: str) -> bool:
    """Whether a path is that of a file in a package, such as t5x/configs/runs/eval.gin.

    gin 0.5 fails where a folder is no package: `include 'models/small.gin'` beside one of yours.
    """
    package, file = os.path.split(path)
    try:
        found = importlib.util.find_spec(package.replace("/", "."))
    except (ImportError, ValueError):
        return False
    return bool(found and found.origin and Path(found.origin).with_name(file).is_file())


def _show_error(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print a mistake of the user's as one line, with exit status 2, and others as before."""
    found: object = user_error(error)
    if found is None and any(
        frame.f_code.co_name == "parse_gin_flags" for frame, _ in traceback.walk_tb(trace)
    ):
        found = _gin_error(error)
    if found is None:
        _shown_before(kind, error, trace)
        return
    print(f"p5jax: error: {found}", file=sys.stderr)
    raise SystemExit(2)


def _gin_error(error: BaseException) -> str:
    """Return on one line what gin says of a file or a flag."""
    missing = re.match(r"(\w+)/\S*macro.value set to `%gin.REQUIRED` but not", str(error))
    if missing:
        return f"{missing[1]} must be set: add --gin.{missing[1]}=…"
    if isinstance(error, SyntaxError) and error.text:
        where = f"{error.filename}:{error.lineno}: " if error.filename else ""
        expected = "expected a Python value (strings in quotes) or gin reference"
        return f"{where}{error.text.strip()}: {expected}"
    return " ".join(str(error).split())


_shown_before = sys.excepthook


def install() -> None:
    """Make this process, which is or will be one of t5x's programs, behave so."""
    gin.add_config_file_search_path(str(config.gin_folder()))
    gin.ParserDelegate.macro = _macro
    gin.register_finalize_hook(_refuse_unused_macros)
    gin._FILE_READERS[:] = [
        (read, _is_resource if read is resource_reader.system_path_reader else known)
        for read, known in gin._FILE_READERS
    ]
    sys.excepthook = _show_error
