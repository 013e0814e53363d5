"""Imports point downward without circles, and files and functions are short enough to read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the ground up: a module imports from its own room and those before it.
STOREYS = (
    "core",
    "data",
    "prompts",
    "text",
    "models",
    "parallel",
    "pipeline",
    "training",
    "inference",
    "memory",
    "runs",
    "evaluation",
    "triggers",
    "ppr",
    "serving",
    "reports",
    "jobs",
    "tasks",
    "cli",
)
ENTRANCE = "p5jax"  # the public API, above all rooms
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_LOOP = 350, 60, 120
# Module, or module.function -> why it may be longer.
LONGER: dict[str, str] = {}


def module_name(path: Path) -> str:
    """The dotted name under which a source file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("p5jax", *parts) if parts[0] == "tasks" else parts
    return ".".join(parts).removesuffix(".__init__")


SOURCES = {
    module_name(path): path
    for folder in ("p5jax", "tasks")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def imported(name: str, tree: ast.AST) -> Iterator[str]:
    """The modules of this project that a module names anywhere, also lazily or for types."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [each if each in SOURCES else str(node.module) for each in below]
        else:
            continue
        yield from (each for each in found if each in SOURCES and each != name)


TREES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}
IMPORTS = {name: set(imported(name, tree)) for name, tree in TREES.items()}


def storey(name: str) -> int:
    """The floor of a module's room; the entrance is above all."""
    return len(STOREYS) if name == ENTRANCE else STOREYS.index(name.split(".")[1])


def test_every_module_has_a_room():
    rooms = {name.split(".")[1] for name in SOURCES if name != ENTRANCE}
    assert rooms == set(STOREYS)
    loose = [path.name for path in (ROOT / "p5jax").glob("*.py") if path.stem != "__init__"]
    assert not loose


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_imports_point_downward(name):
    upward = {other for other in IMPORTS[name] if storey(other) > storey(name)}
    assert not upward


def test_only_the_command_line_imports_the_tasks():
    users = {
        name
        for name in SOURCES
        if not name.startswith("p5jax.tasks")
        and any(other.startswith("p5jax.tasks") for other in IMPORTS[name])
    }
    assert users <= {"p5jax.cli.tasks"}


def at_once(name: str) -> set[str]:
    """The modules of this project that a module imports when it is imported itself."""
    kinds = ast.Import | ast.ImportFrom
    first = [node for node in TREES[name].body if isinstance(node, kinds)]
    return set(imported(name, ast.Module(first, [])))


def test_beam_is_imported_where_its_workers_are_asked_for():
    beams = {name for name, tree in TREES.items() if "'apache_beam'" in ast.dump(tree)}
    assert beams == {"p5jax.core.beam"}
    assert [name for name in SOURCES if at_once(name) & beams] == []


def ring() -> list[str]:
    """Modules that import each other in a ring, [] where there are none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for other in sorted(IMPORTS[name]):
            found = walk(other, [*path, name])
            if found:
                return found
        done.add(name)
        return []

    return next((found for name in sorted(SOURCES) if (found := walk(name, []))), [])


def test_there_is_no_circle():
    assert not ring()


def is_there(dotted: str) -> bool:
    """Whether a name such as core.folder or training.trainer.train, below p5jax, is there."""
    name, last = f"p5jax.{dotted}", dotted.rpartition(".")[2]
    if name in SOURCES:
        return True
    tree = TREES.get(name.removesuffix(f".{last}"), ast.Module([], []))
    return any(getattr(node, "name", None) == last for node in ast.walk(tree))


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_docstrings_refer_to_what_is_there(name):
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    texts = [ast.get_docstring(node) for node in ast.walk(TREES[name]) if isinstance(node, kinds)]
    found = re.findall(
        r"\b[Ss]ee\s+`?(?:p5jax\.)?([a-z_]+(?:\.\w+)+)", "\n".join(filter(None, texts))
    )
    assert [dotted for dotted in found if not is_there(dotted)] == []


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_files_and_functions_are_short(name):
    lines = SOURCES[name].read_text().count("\n")
    assert lines <= LONGEST_FILE or name in LONGER, f"{lines} lines"
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            loops = any(isinstance(each, ast.For | ast.While) for each in node.body)
            limit = LONGEST_LOOP if loops else LONGEST_FUNCTION
            assert length <= limit or f"{name}.{node.name}" in LONGER, f"{node.name}: {length}"


def test_every_exception_is_still_needed():
    names = {
        f"{name}.{node.name}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    assert set(LONGER) <= names | set(SOURCES)
