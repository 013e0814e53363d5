"""Statements of a gin text, read before any of them has an effect."""

from __future__ import annotations

import importlib
import sys
import tokenize
from typing import Any

from gin import config_parser  # type: ignore[attr-defined]
from p5jax.core.errors import UserError

Include = config_parser.IncludeStatement
_TRUSTED = ("p5jax", "t5x", "seqio")  # packages that any gin file may import
_allowed: set[str] = set()


def allow_imports(*modules: str) -> None:
    """Import modules, which gin files may import from now on; UserError for one that is not found.

    An `import` in a gin file runs the module: others than p5jax's, t5x's and SeqIO's must be named,
    or have been imported before, so that nothing runs.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except (ImportError, ValueError, TypeError) as error:
            raise UserError(f"--gin-imports {name}: {error}") from error
        _allowed.add(name)


class _Plain(config_parser.ParserDelegate):
    """Reads values without looking anything up."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> str:
        return self.macro(scoped_configurable_name)

    def macro(self, macro_name: str) -> str:
        if "/" in macro_name:
            raise SyntaxError(f"found {macro_name}, expected a name without a scope")
        return macro_name


def read_statements(text: str, file: str = "") -> list[Any]:
    """Return all statements, gin's own objects, of a text that stands in `file`.

    UserError, with the line, for what is no gin, for an import that is not allowed, and for names
    with scopes, which nothing in p5jax reads.
    """
    found: list[Any] = []
    parser = None
    try:
        parser = config_parser.ConfigParser(text, _Plain())
        for statement in parser:
            found.append(statement)
            refusal = _refusal(statement)
            if refusal:
                raise UserError(_at(file, statement.location.line_num) + refusal)
    except tokenize.TokenError as error:
        what, (line, _) = error.args
        expected = "expected its closing quotes or bracket"
        raise UserError(f"{_at(file, line)}found {what}, {expected}") from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or (parser.current_token.start[0] if parser else 1)
        words = " ".join(str(getattr(error, "msg", error)).split())
        if isinstance(error, RecursionError | MemoryError):
            words = "found too many brackets in brackets"
        raise UserError(_at(file, line) + words) from error
    return found


def _at(file: str, line: int) -> str:
    return f"{file}:{line}: " if file else "--gin: "


def _refusal(statement: Any) -> str:
    """What is wrong with a statement, "" for nothing."""
    if isinstance(statement, Include):
        return ""
    if isinstance(statement, config_parser.ImportStatement):
        parts = statement.module.split(".")
        names = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
        if names & {*_TRUSTED, *_allowed} or statement.module in sys.modules:
            return ""
        return (
            f"found an import of {statement.module}, which would run it, expected one of"
            f" {', '.join(_TRUSTED)}; --gin-imports {statement.module} allows it, and in Python"
            " importing it before"
        )
    if statement.scope:
        return f"found the scope {statement.scope!r}, expected a name without one"
    if statement.selector.split(".")[-1] == "macro":
        return f"found {statement.selector}, expected NAME = VALUE"
    return ""
