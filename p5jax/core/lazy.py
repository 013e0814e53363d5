"""Names of a package that are imported when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any


def imported_when_used(package: str, objects: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package whose names are elsewhere.

    objects: name -> "module:object", or "module:object.attribute".
    """

    def __getattr__(name: str) -> Any:
        if name not in objects:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        from pkgutil import resolve_name

        found = resolve_name(objects[name])
        setattr(sys.modules[package], name, found)
        return found

    return __getattr__
