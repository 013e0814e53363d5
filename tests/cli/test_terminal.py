"""What a terminal gets, whatever it can show and whatever a title holds."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from p5jax.cli import output
from p5jax.cli.main import COMMANDS, main

CLI = Path(output.__file__).parent
TITLE = "Été \x1b[31mred\x1b[0m \x9bm \u202e 日本"


def run(code: str, encoding: str = "ascii", **settings) -> subprocess.CompletedProcess[str]:
    """Run Python code of its own with the streams of a plain terminal."""
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=env | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        **settings,
    )


def test_only_the_output_module_prints():
    """Through `show`, which lets nothing command the terminal; main prints its own lines."""
    for file in sorted(CLI.glob("*.py")):
        nodes = ast.walk(ast.parse(file.read_text()))
        calls = [node.func for node in nodes if isinstance(node, ast.Call)]
        printed = [call for call in calls if getattr(call, "id", "") == "print"]
        assert not printed or file.name in ("output.py", "main.py"), file.name


def test_a_title_is_shown_and_commands_nothing(capsys):
    output.show(TITLE)
    output.note(TITLE)
    found = capsys.readouterr()
    shown = r"Été \x1b[31mred\x1b[0m \x9bm \u202e 日本" + "\n"
    assert found.out == shown
    assert found.err == f"note: {shown}"


def test_json_holds_the_title_and_commands_nothing(capsys):
    output.print_json({"title": TITLE, "lone": "\ud800"})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"title": TITLE, "lone": "\ud800"}
    output.print_json({"title": TITLE})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"title": TITLE}
    assert "Été" in printed
    assert not set("\x1b\x9b\u202e") & set(printed)


def test_an_error_is_one_line_that_commands_nothing(capsys):
    assert main(["data", "inspect", "a\nb\x1b[31m"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert r"a\nb\x1b[31m: not a dataset folder" in error


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_terminal_that_cannot_show_a_title_gets_it_escaped(encoding):
    code = (
        "from p5jax.cli import output; from p5jax.core.printing import escape_unprintable\n"
        f"escape_unprintable(); output.show({TITLE!a}); output.print_json([{TITLE!a}])"
    )
    done = run(code, encoding)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_help_and_errors_on_an_ascii_terminal():
    code = "import sys; from p5jax.cli.main import main; sys.exit(main(sys.argv[1:] or {}))"
    for words, status in ((["--help"], 0), (["data", "inspect", "дом"], 2)):
        done = run(code.format(ascii(words)))
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        assert (done.stdout + done.stderr).isascii()


@pytest.mark.parametrize("words", [["--help"], ["data", "prepare", "--help"]])
def test_an_output_that_is_full_is_one_line(words):
    code = f"import sys; from p5jax.cli.main import main; sys.exit(main({words}))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (2, "p5jax: error: No space left on device\n")


@pytest.mark.parametrize(
    ("name", "words", "option"),
    [
        ("recommend", ["r", "--user", "a", "--user", "b"], "--user"),
        ("recommend", ["r", "--user=a", "--user=a"], "--user"),
        ("recommend", ["r", "--user", "a", "-k", "3", "-k4"], "-k"),
        ("recommend", ["r", "--user", "a", "--json", "--json"], "--json"),
        (
            "recommend",
            ["r", "--user", "a", "--exclude-history", "--no-exclude-history"],
            "--no-exclude-history",
        ),
        ("data prepare synthetic", ["--out", "a", "--out", "b"], "--out"),
    ],
)
def test_an_option_given_twice_is_one_line(name, words, option, capsys):
    assert main([*name.split(), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"p5jax: error: {option}: found it twice, expected it once")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "words", "found"),
    [
        ("train", ["--gin_file=a", "--gin_file", "b"], {"gin_file": ["a", "b"]}),
        (
            "data prepare amazon",
            ["--out", "o", "--reviews", "a", "b", "--reviews", "c"],
            {"reviews": ["a", "b", "c"], "metadata": []},
        ),
        ("report", ["r", "--triggers", "a", "--triggers", "b", "c"], {"triggers": ["a", "b", "c"]}),
        ("report", ["r"], {"triggers": []}),
        ("ppr compare", ["r", "--soft", "a", "--soft", "b"], {"soft": ["a", "b"]}),
        (
            "ppr recommend",
            ["t", "--profile", "a=1", "--profile", "a=2"],
            {"profile": ["a=1", "a=2"]},
        ),
        (
            "evaluate",
            ["r", "--prompts", "2-3", "--prompts=2-4,2-5"],
            {"prompts": ["2-3", "2-4", "2-5"]},
        ),
        (
            "recommend",
            ["r", "--user", "u", "--exclude", "a,b", "--exclude", "c"],
            {"exclude": ["a,b", "c"]},
        ),
        ("generate", ["r", "--text", "--user --user"], {"text": "--user --user"}),
        ("recommend", ["r", "--user", "a", "-k", "-3"], {"k": -3}),
    ],
)
def test_a_list_given_twice_is_longer(name, words, found):
    arguments: Namespace = COMMANDS[name].parse(words)
    assert {key: getattr(arguments, key) for key in found} == found
