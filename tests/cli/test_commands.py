"""Every command: its help, its defaults, and what is imported to show them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass, replace
from typing import Any

import pytest

import p5jax
from p5jax.cli.main import COMMANDS, main
from p5jax.cli.options import from_options
from p5jax.core.errors import UserError
from p5jax.data import formats
from p5jax.data.cold_items import ColdItemsConfig
from p5jax.data.names import HELD_OUT_SPLITS, SPLITS
from p5jax.evaluation.compare import compare_runs
from p5jax.evaluation.settings import EvaluationConfig
from p5jax.jobs.cold_items import cold_items
from p5jax.jobs.compare import compare
from p5jax.jobs.evaluate import evaluate
from p5jax.jobs.evaluate_backbone import evaluate_backbone
from p5jax.jobs.evaluate_tuned import evaluate_tuned
from p5jax.jobs.export import export
from p5jax.jobs.export_shards import export_shards
from p5jax.jobs.fit_memory import fit_memory
from p5jax.jobs.predict import predict
from p5jax.jobs.reproduce import reproduce
from p5jax.jobs.start import opened
from p5jax.jobs.study import study
from p5jax.jobs.tune import tune
from p5jax.jobs.vocabulary import vocabulary
from p5jax.ppr import cold_study
from p5jax.ppr.cold import recommend as cold
from p5jax.ppr.soft.comparison import compare_prompts
from p5jax.ppr.tuning import MODES
from p5jax.reports.run_report import write_report
from p5jax.serving.recommender import Recommender
from p5jax.serving.settings import BulkConfig, ProgramsConfig, ServeConfig
from p5jax.training.checkpoints import Damaged
from p5jax.triggers.ablation import ablate
from p5jax.triggers.evaluation import evaluate_triggers
from p5jax.triggers.settings import ABLATIONS, SearchConfig

GIN, OUT = "--gin_file=f", "--out=o"
SEARCH = ["run", OUT, "--family", "direct"]
# Command -> the least that it takes, and what in the library has its defaults.
LIBRARY: dict[str, tuple[Sequence[str], Sequence[Any]]] = {
    "quickstart": ([], []),
    "reproduce": (["beauty"], [reproduce]),
    "data prepare amazon": (["--reviews", "r", OUT], [formats.AmazonOptions(reviews=("r",))]),
    "data prepare recbole": (["--folder", "f", OUT], [formats.RecboleOptions(folder="f")]),
    "data prepare sequences": (
        ["--sequences", "s", OUT],
        [formats.SequencesOptions(sequences="s")],
    ),
    "data prepare synthetic": ([OUT], [formats.SyntheticOptions()]),
    "data prepare table": (
        ["--interactions", "t", OUT],
        [formats.TableOptions(interactions=("t",))],
    ),
    "data inspect": (["d"], []),
    "data audit": (["d"], []),
    "data vocabulary": (["d", OUT], [vocabulary]),
    "data export-shards": ([GIN, OUT], [export_shards]),
    "data export-tfds": (["d", OUT], []),
    "data count-pairs": (["d"], []),
    "train": ([GIN], []),
    "evaluate": (["run"], [EvaluationConfig(), evaluate]),
    "memory": (["run"], [EvaluationConfig(), fit_memory]),
    "extend": (
        ["run", OUT, "--interactions", "t"],
        [formats.NewRowsOptions(interactions=("t",))],
    ),
    "cold-items": (["d", GIN, OUT], [ColdItemsConfig(), cold_items]),
    "compare": (["a", "b"], [compare, compare_runs]),
    "recommend": (["run", "--user=u"], [BulkConfig(), Recommender.recommend]),
    "rank": (["run", OUT], [BulkConfig(), opened, Recommender.recommend_all]),
    "merge": (["a", "b", OUT], []),
    "serve": (["run"], [ServeConfig(), Recommender.load]),
    "score": (["run", "--user=u", "--items=i"], [Recommender.placed, Recommender.load]),
    "explain": (["run", "--user=u", "--item=i"], [Recommender.explain, Recommender.load]),
    "generate": (["run", "--text=t"], [Recommender.load]),
    "report": (["run"], [write_report]),
    "export": (["run", OUT], [ProgramsConfig(), export]),
    "triggers search": (SEARCH, [SearchConfig("direct"), opened]),
    "triggers evaluate": (["run", "t"], [evaluate_triggers, opened]),
    "triggers ablate": (
        [*SEARCH, "--vary=position"],
        [SearchConfig("direct"), ablate, opened],
    ),
    "ppr study": (["d", OUT], [study]),
    "ppr report": (["s"], []),
    "ppr pretrain": ([GIN], []),
    "ppr tune": (["run", OUT], [tune]),
    "ppr evaluate": (["run"], [evaluate_backbone, evaluate_tuned]),
    "ppr recommend": (["t"], [cold.recommend]),
    "ppr predict": (["run", "--attribute=a", OUT], [predict]),
    "ppr soft": ([GIN], []),
    "ppr compare": (["run", "--soft", "s"], [compare_prompts, opened]),
    "tasks list": (["--run", "r"], []),
    "tasks show": (["n", "--run", "r"], []),
    "tasks cache": (["n", OUT, "--run", "r"], []),
}
# Defaults that the library has not: of `quickstart`, and of tasks and TFDS tables, which need
# extras to be asked (tests/tasks/test_tasks_commands.py, tests/data/test_tfds.py).
OWN = {
    "quickstart": {"out"},
    "tasks": {"n", "split", "targets", "epochs", "seed", "shards"},
    "data": {"file_format"},
}


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """A function's arguments that have defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def flat(settings: Any) -> dict[str, Any]:
    """The values of a dataclass and of those within it."""
    found: dict[str, Any] = {}
    for name, value in vars(settings).items():
        found |= flat(value) if is_dataclass(value) else {name: value}
    return found


def same(one: Any, other: Any) -> bool:
    """Whether two defaults are equal; an empty list is an empty tuple, and no choice is None."""
    return (tuple(one) if isinstance(one, list) else one) == other or not (one or other)


def test_the_table_has_every_command():
    assert set(LIBRARY) == set(COMMANDS)


@pytest.mark.parametrize("name", LIBRARY)
def test_defaults_are_the_library_s(name):
    words, library = LIBRARY[name]
    arguments = COMMANDS[name].parse(words)
    known: set[str] = set()
    for each in library:
        if callable(each):
            found = defaults(each)
        else:
            found = flat(each)
            assert from_options(type(each), arguments) == each
        for option, value in vars(arguments).items():
            other = found.get(option, found)
            if other is not found:
                assert same(value, other), (option, value, other)
                known.add(option)
    given = {option for option, value in vars(arguments).items() if value not in (None, False)}
    typed = {
        "folder",
        "folders",
        "out",
        "user",
        "item",
        "items",
        "text",
        "attribute",
        "soft",
        "names",
        "name",
    }
    typed |= {"gin_file", "gin_imports", "bindings", "after_dashes", "run_a", "run_b", "run_folder"}
    typed |= {"reviews", "sequences", "family", "vary", "triggers", "tuned", "profile"}
    assert given - typed - known <= OWN.get(name.split()[0], set())


@pytest.mark.parametrize(
    ("name", "option", "choices"),
    [
        ("ppr tune", "mode", MODES),
        ("ppr predict", "mode", MODES),
        ("ppr study", "ablate", cold_study.STUDY_ABLATIONS),
        ("triggers ablate", "vary", ABLATIONS),
        ("evaluate", "split", HELD_OUT_SPLITS),
        ("ppr evaluate", "split", HELD_OUT_SPLITS),
        ("tasks show", "split", SPLITS),
    ],
)
def test_choices_are_the_library_s(name, option, choices):
    words = [word for word in LIBRARY[name][0] if not word.startswith(f"--{option}=")]
    for choice in choices:
        arguments = COMMANDS[name].parse([*words, f"--{option}", choice])
        assert getattr(arguments, option) in (choice, [choice])
    with pytest.raises(UserError, match="invalid choice: 'other'") as error:
        COMMANDS[name].parse([*words, f"--{option}", "other"])
    assert str(error.value).count("'") == 2 + 2 * len(choices)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([*name.split(), "--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"usage: p5jax {name} ")
    assert f"{COMMANDS[name].help}." in text


def test_help_lists_every_command_and_a_group_its_own(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 100 for line in lines)
    for name, command in COMMANDS.items():
        assert [line for line in lines if line.split() == [*name.split(), *command.help.split()]]
    assert main(["data", "-h"]) == 0
    text = capsys.readouterr().out
    assert "data prepare amazon" in text
    assert "ppr study" not in text


def test_a_bare_call_is_answered_with_the_help(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert main([]) == 2
    assert capsys.readouterr() == ("", text)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"p5jax {p5jax.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_more_than_a_default(name):
    """An option's help is not a default in brackets alone, and --out of `data prepare` warns."""
    for action in COMMANDS[name].parser()._actions:
        assert action.help, action.dest
        assert not action.help.startswith("("), (action.dest, action.help)
        if name.startswith("data prepare") and action.dest == "out":
            assert action.help == "folder to write; a dataset that is there is replaced"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["trian"], "no command 'trian'; did you mean train"),
        (["data", "inspct"], "p5jax data: no command 'inspct'; did you mean inspect"),
        (["data", "prepare"], "p5jax data prepare: expected a command"),
        (["--fast"], "no command '--fast'"),
        (["train"], "required: --gin_file; see p5jax train --help"),
        (["train", GIN, "--gin.STEPS"], "--gin.STEPS: expected --gin.NAME=VALUE"),
        (["data", "inspect", "d", "--gin.STEPS=1"], "unknown argument '--gin.STEPS=1'"),
        (["compare", "a", "b", "--split", "train"], "invalid choice: 'train'"),
    ],
)
def test_a_mistake_is_one_line(words, text, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_values_may_begin_with_a_dash():
    recommend = COMMANDS["recommend"]
    for key in ("-x", "--B0", "-5", "a,b", "-a=b"):
        arguments = recommend.parse(["r", "--user", key, "--exclude", key, "-k", "3", "--json"])
        assert (arguments.user, arguments.exclude, arguments.k) == (key, [key], 3)
        assert arguments.json
    assert recommend.parse(["r", "--user=-h"]).user == "-h"
    for words in (["--user", "--json"], ["--user"]):
        with pytest.raises(UserError, match="--user: expected one argument"):
            recommend.parse(["r", *words])
    assert COMMANDS["ppr recommend"].parse(["t", "--user", "--B0"]).user == "--B0"
    assert COMMANDS["explain"].parse(["r", "--item", "-i", "--user", "-u"]).item == "-i"


def test_gin_words_are_bindings_and_words_after_dashes_are_beam_s():
    arguments = COMMANDS["train"].parse([GIN, "--gin.A=1=2", "--gin.b.c=x y", "--gin.A=3"])
    assert arguments.bindings == {"A": "3", "b.c": "x y"}
    words = ["n", OUT, "--run", "r", "--", "--runner=DirectRunner", "-x"]
    assert COMMANDS["tasks cache"].parse(words).after_dashes == ["--runner=DirectRunner", "-x"]


@pytest.mark.parametrize(
    ("lines", "modules"),
    [
        (
            ("--help", "--version", "data -h", "data prepare amazon -h", "compare -h"),
            ("jax", "numpy", "gin"),
        ),
        (("compare -h", "ppr study -h", "tasks cache -h", "trian"), ("jax", "numpy", "gin")),
        (
            ("triggers search -h", "evaluate -h", "recommend -h", "rank -h", "memory -h"),
            ("jax", "gin"),
        ),
    ],
)
def test_help_imports_no_more_than_it_needs(lines, modules):
    program = f"""
import contextlib, io, sys
from p5jax.cli.main import main
for words in {lines!r}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(SystemExit):
            main(words.split())
    print(words, [name for name in {modules!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{words} []" for words in lines], done.stderr


@pytest.mark.parametrize("words", [["export", "RUN", "--out", "OUT"], ["compare", "A", "B"]])
def test_from_step_is_named_only_where_a_command_takes_it(words, tmp_path, monkeypatch, capsys):
    (tmp_path / "checkpoint_2").mkdir()

    def damaged(arguments):
        raise Damaged(tmp_path / "checkpoint_5", ValueError("cut"))

    monkeypatch.setitem(COMMANDS, words[0], replace(COMMANDS[words[0]], run=damaged))
    assert main(words) == 2
    hint = " (see --from-step)" if words[0] == "export" else ""
    assert capsys.readouterr().err.endswith(f"p5jax; steps 2 are there too{hint}\n")
