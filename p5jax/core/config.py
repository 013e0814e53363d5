"""Configuration by gin: find files, bind values, refuse unused ones, build frozen dataclasses."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util  # noqa: F401  gin 0.5 uses it without importing it
import io
import re
import tokenize
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

# `import gin` would find this project's own gin/ folder when it is run from the checkout.
from gin import config as gin  # type: ignore[attr-defined]
from p5jax.core.errors import UserError, nearest
from p5jax.core.gin_text import Include, read_statements

Config = TypeVar("Config")

_PACKAGE = Path(__file__).resolve().parents[1]
_MACRO_DEFINED = re.compile(r"^([A-Za-z_]\w*)\s*=", re.MULTILINE)
_MACRO_USED = re.compile(r"%([A-Za-z_]\w*)")
_GIN_ERRORS = (
    *(ValueError, SyntaxError, OSError, TypeError, RuntimeError, AttributeError),
    *(ImportError, NameError, tokenize.TokenError),
)
_registered: dict[str, type] = {}


def gin_folder() -> Path:
    """Return the folder of gin files: the checkout's gin/, else the installed copy."""
    for folder in (_PACKAGE.parent / "gin", _PACKAGE / "configs"):
        if (folder / "runs").is_dir():
            return folder
    raise UserError(f"no gin files beside {_PACKAGE}; the installation is incomplete")


def find_gin_file(name: str, below: str = "runs") -> Path:
    """Return the path of a gin file given as a path or by its name below the gin folder.

    below: the folder in it whose files need no more than their own name.
    """
    folder = gin_folder()
    for path in (
        Path(name),
        folder / name,
        folder / f"{name}.gin",
        folder / below / f"{name}.gin",
    ):
        if path.is_file():
            return path
    known = [str(p.relative_to(folder)) for p in folder.rglob("*.gin")]
    known += [p.stem for p in (folder / below).glob("*.gin")]
    raise UserError(f"{name}: no such gin file{nearest(name, known)}")


def register_configs(*classes: type) -> None:
    """Make frozen dataclasses configurable under their own names; repeated calls do nothing."""
    for cls in classes:
        if cls.__name__ not in _registered:
            gin.external_configurable(cls, name=cls.__name__)
            _registered[cls.__name__] = cls


def configure(gin_files: Sequence[str], overrides: Iterable[str] = ()) -> None:
    """Bind gin files, then `NAME=VALUE` overrides; UserError for a binding that nothing uses.

    A VALUE that is not a Python literal is taken as a string, so paths need no quotes.
    """
    gin.clear_config()
    files = [find_gin_file(name) for name in gin_files]
    bindings = [_binding(text) for text in overrides]
    for file in files:
        _bind_file(file)
    for binding in bindings:
        read_statements(binding)
    _gin(lambda: gin.parse_config(bindings))
    refuse_unused_macros()


class _Part(io.StringIO):
    """Lines of a gin file under the file's name, which gin shows in its errors."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


def _bind_file(file: Path, within: tuple[Path, ...] = ()) -> None:
    """Bind a gin file's statements in order, those of included files where they are included.

    gin's own `include` looks for Python packages first and fails where a folder of the same name
    is on the path: "runs" and "models" in the working directory, for example.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {error}") from error
    statements = read_statements(text, str(file))
    lines = io.StringIO(text).readlines()

    def bind(start: int, stop: int) -> None:
        part = "\n" * start + "".join(lines[start:stop])  # line numbers stay the file's
        _gin(lambda: gin.parse_config(_Part(part, str(file))))

    start = 0
    ends = [each.location.line_num - 1 for each in statements[1:]] + [len(lines)]
    for statement, end in zip(statements, ends, strict=False):
        if isinstance(statement, Include):
            number = statement.location.line_num
            bind(start, number - 1)
            try:
                included = find_gin_file(statement.filename)
            except UserError as error:
                raise UserError(f"{file}:{number}: {error}") from error
            if included in (*within, file):
                raise UserError(f"{file}:{number}: found {included}, which includes this file")
            _bind_file(included, (*within, file))
            start = end
    bind(start, len(lines))


def _gin(call: Callable[[], object]) -> None:
    """Call gin; an error of its own becomes a UserError of one line."""
    try:
        call()
    except _GIN_ERRORS as error:
        raise UserError(_first_line(error)) from error


def _binding(text: str) -> str:
    name, sign, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not sign or not name or not value:
        raise UserError(f"--gin.{text}: expected --gin.NAME=VALUE")
    return f"{name} = {value if _is_gin(value) else repr(value)}"


def _is_gin(value: str) -> bool:
    """Return whether gin can read a value: a Python literal, or a macro or reference."""
    try:
        ast.literal_eval(value)
        return True
    except (*_GIN_ERRORS, MemoryError):
        pass
    if not value.startswith(("%", "@", "(", "[", "{")):
        return False  # gin alone would read the 2 of a prompt id 2-3
    try:
        gin.parse_value(value)
        return True
    except _GIN_ERRORS:
        return False


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    unknown = re.search(r"No configurable matching '([\w./]+)'", str(error))
    if unknown:
        return f"{_where(lines)}unknown name {unknown[1]!r}{nearest(unknown[1], _registered)}"
    no_field = re.search(
        r"Configurable '([\w./]+)' doesn't have a parameter named '(\w+)'", str(error)
    )
    if no_field:
        cls = _registered[no_field[1].split(".")[-1]]
        names = [field.name for field in dataclasses.fields(cls)]
        found = f"{no_field[1]} has no field {no_field[2]!r}"
        return f"{_where(lines)}{found}{nearest(no_field[2], names)}"
    return " ".join(lines) if lines else repr(error)


def _where(lines: list[str]) -> str:
    for line in lines:
        place, _, number = line.rpartition(", line ")
        _, found, file = place.partition("In ")
        digits = re.match(r"\d+", number)
        if found and digits:
            file = file.removeprefix("file ").strip('"')
            return f"{file}:{digits[0]}: "
    return ""


def refuse_unused_macros(used_before: Collection[str] = ()) -> None:
    """Raise UserError, naming the nearest, for a macro that is set but that nothing uses.

    used_before: those that are right although other bindings have taken the place of their uses.
    """
    text = gin.config_str(max_line_length=10**6)
    defined, used = set(_MACRO_DEFINED.findall(text)), set(_MACRO_USED.findall(text))
    used.update(used_before)
    for name in sorted(defined - used):
        raise UserError(f"macro {name} is set but nothing uses it{nearest(name, used)}")


def build(cls: type[Config], **given: object) -> Config:
    """Return `cls` filled from what is given, the bindings, and its own defaults elsewhere."""
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    try:
        bound = given | gin.get_bindings(cls.__name__)
    except (ValueError, TypeError, RecursionError) as error:
        if isinstance(error, RecursionError):
            raise UserError(f"{cls.__name__}: found values that refer to themselves") from error
        missing = re.search(r"configurable 'macro' .* in scope '(\w+)'", str(error))
        if missing:
            raise UserError(f"{missing[1]} must be set: add --gin.{missing[1]}=…") from error
        raise UserError(" ".join(str(error).split())) from error
    for name, field in fields.items():
        if field.default is field.default_factory is dataclasses.MISSING and name not in bound:
            raise UserError(f"{cls.__name__}.{name} must be set")
    return cls(**{name: _text(fields[name], value) for name, value in bound.items()})


def _text(field: dataclasses.Field[Any], value: object) -> object:
    """Return a whole number as text where the field is text: a folder may be called 2024."""
    return str(value) if field.type == "str" and type(value) is int else value


def bound_config() -> str:
    """Return the bindings in force, as gin text that can be run again."""
    return str(gin.config_str())
