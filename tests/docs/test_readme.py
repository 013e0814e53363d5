"""README and documentation tell the truth: their commands parse, and what they name exists."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest

from p5jax.cli.main import COMMANDS
from p5jax.core.errors import UserError

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "launch/README.md"]
    + [page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts]
)
COMMAND_PAGES = [page for page in PAGES if page.name != "CHANGELOG.md"]

_BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
_GIN = re.compile(r"\b(?:models|runs|results|ppr|t5x)/\w+\.gin\b")
_TARGET = re.compile(r"\bmake ([a-z][a-z-]*)")
_ROOT_PATH = re.compile(
    r"(?:p5jax|tasks|gin|launch|docs|tests|benchmarks)/[\w./-]*[\w/]|[\w.-]+\.(?:py|toml|cfg)"
)
_BANNED = (
    r"\bdraws?\b",
    r"\bplaces\b",
    r"goes on where it was",
    r"is in no training",
    r"also where they win",
    r"\bprovably\b",
)
_ON_DISK = re.compile(r"draws-|[\"']draws[\"']")  # names of files and keys, which stay as they are
SOURCES = sorted(
    path
    for room in ("p5jax", "tasks", "gin")
    for path in (ROOT / room).rglob("*")
    if path.suffix in (".py", ".toml", ".gin") and "__pycache__" not in path.parts
)
_MADE_BY_READERS = ("docs/_build",)  # named in the text, made by a command


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def command_lines(page: Path) -> tuple[str, ...]:
    """The p5jax command lines of a page's code blocks, continued lines joined."""
    lines = []
    for block in _BLOCK.findall(text_of(page)):
        for line in block.replace("\\\n", " ").splitlines():
            start = re.search(r"(?:^|-- )(p5jax .*)", line.strip())
            if start and "usage:" not in line:
                lines.append(start[1])
    return tuple(lines)


def parse(line: str) -> None:
    """Parse a command line by the command's own parser; UserError or SystemExit when it cannot."""
    words = shlex.split(line, comments=True)[1:]
    for depth in range(len(words), 0, -1):
        command = COMMANDS.get(" ".join(words[:depth]))
        if command:
            command.parse(words[depth:])
            return
    raise UserError(f"{line}: no such command")


def test_pages_have_commands_to_check():
    assert sum(len(command_lines(page)) for page in COMMAND_PAGES) > 40


@pytest.mark.parametrize("page", COMMAND_PAGES, ids=name)
def test_commands_parse(page):
    for line in command_lines(page):
        parse(line)


def test_a_wrong_command_is_found():
    for line in ("p5jax evaluate", "p5jax evaluate RUN --famlies a", "p5jax evalute RUN"):
        with pytest.raises((UserError, SystemExit)):
            parse(line)


@pytest.mark.parametrize("page", COMMAND_PAGES, ids=name)
def test_commands_in_the_text_exist(page):
    for span in _SPAN.findall(text_of(page)):
        words = span.replace("\\|", "|").split()
        if len(words) < 2 or words[0] != "p5jax" or words[1].startswith(("-", "COMMAND")):
            continue
        for choice in words[1].split("|"):
            beginning = [choice]
            assert any(command.split()[: len(beginning)] == beginning for command in COMMANDS), (
                f"{name(page)}: {span}"
            )


def test_readme_names_every_command():
    text = text_of(ROOT / "README.md")
    table = text[text.index("## Commands") : text.index("## Configuration")]
    for command in COMMANDS:
        for word in command.split():
            assert re.search(rf"\b{word}\b", table), f"{command}: not in README's table"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page):
    for target in _LINK.findall(text_of(page)):
        included = page.name in ("contributing.md", "changelog.md", "results.md", "clusters.md")
        found = (page.parent / target).exists() or (included and (ROOT / target).exists())
        assert found, f"{name(page)}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_gin_files_exist(page):
    for file in _GIN.findall(text_of(page)):
        assert (ROOT / "gin" / file).is_file(), f"{name(page)}: {file}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_exist(page):
    makefile = text_of(ROOT / "Makefile")
    spans = [*_SPAN.findall(text_of(page)), *_BLOCK.findall(text_of(page))]
    for target in (target for span in spans for target in _TARGET.findall(span)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{name(page)}: make {target}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name)
def test_paths_exist(page):
    for span in _SPAN.findall(text_of(page)):
        if "/" not in span or not _ROOT_PATH.fullmatch(span.rstrip("/")):
            continue
        if "NAME" in span or span.startswith(_MADE_BY_READERS):
            continue
        below = ROOT / "p5jax" / span  # the design page names rooms by their own names
        assert (ROOT / span).exists() or below.exists(), f"{name(page)}: {span}"


def test_design_page_has_every_room():
    rooms = {path.parent.name for path in (ROOT / "p5jax").glob("*/__init__.py")}
    text = text_of(ROOT / "docs/design.md")
    assert rooms == {room for room in rooms if f"| `{room}/` |" in text}


def test_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= 250


@pytest.mark.parametrize("module", ["p5jax", "p5jax.triggers", "p5jax.ppr", "p5jax.models"])
def test_api_pages_have_every_public_name(module):
    pages = "".join(text_of(page) for page in (ROOT / "docs/api").glob("*.md"))
    for public in importlib.import_module(module).__all__:
        if public != "__version__":
            assert re.search(rf":: {module}\.{public}$", pages, re.MULTILINE), public


@pytest.mark.parametrize("page", [*PAGES, ROOT / "benchmarks/RESULTS.md", *SOURCES], ids=name)
def test_words_that_are_not_used(page):
    text = _ON_DISK.sub("", text_of(page))
    for pattern in _BANNED:
        found = re.search(pattern, text, re.IGNORECASE)
        assert not found, f"{name(page)}: {found[0]!r}"


def test_tasks_are_named_in_lower_case():
    """As `register` names them, whatever the case of the dataset's name."""
    for page in PAGES:
        for task in re.findall(r"\bp5_\w+", text_of(page)):
            assert task == task.lower(), f"{name(page)}: {task}"


def test_recipes_say_their_date_and_numbers():
    for recipe in (ROOT / "gin/results").glob("*.gin"):
        header = text_of(recipe).split("include")[0]
        if "not measured yet" in header:
            assert not re.search(r": \([\d.]+, [\d.]+\)", text_of(recipe)), recipe.name
            continue
        assert re.search(r"\b20\d\d-\d\d-\d\d\b", header), recipe.name
        assert "HR@10" in header, recipe.name


def test_api_pages_have_every_job():
    pages = "".join(text_of(page) for page in (ROOT / "docs/api").glob("*.md"))
    for job in (ROOT / "p5jax/jobs").glob("[a-z]*.py"):
        public = rf"p5jax\.(jobs\.{job.stem}\.)?{job.stem}$"
        assert job.stem == "start" or re.search(rf":: {public}", pages, re.MULTILINE), job.stem


def test_chart_shows_the_measured_figures(monkeypatch):
    """The chart's labels are the values of the tables that it says it is drawn from."""
    monkeypatch.syspath_prepend(str(ROOT / "docs/figures"))
    import results_chart

    chart = text_of(ROOT / "docs/figures/results.svg")
    cells = [row[2:] for _, _, rows in results_chart.PANELS for row in rows]
    assert len(cells) == 10
    for cell in cells:
        assert f"{results_chart.value(*cell)[0]:.3f}" in chart
    sys.modules.pop("results_chart")


def test_readme_results_are_the_measured_ones():
    """Every figure with an interval in README's table stands in RESULTS.md, to the digits given."""
    measured = re.findall(r"(\d*\.\d+) ± (\d*\.\d+)", text_of(ROOT / "benchmarks/RESULTS.md"))
    figures = re.findall(r"(\d*\.\d+) ± (\d*\.\d+)", text_of(ROOT / "README.md"))
    assert figures
    for pair in figures:
        near = [0.51 * 10 ** -len(number.split(".")[1]) for number in pair]
        assert any(
            all(
                abs(float(given) - float(true)) <= most
                for given, true, most in zip(pair, row, near, strict=True)
            )
            for row in measured
        ), " ± ".join(pair)
