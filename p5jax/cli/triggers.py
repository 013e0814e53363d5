"""The commands `p5jax triggers …`: search for trigger tokens and judge what was found."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from p5jax.cli.mesh import add_mesh, opened


def add(commands: Any, command: Any) -> None:
    """Add the commands below `p5jax triggers`; `command` makes one."""
    search = command("search", _search, "find trigger tokens for one family", commands)
    ablate = command("ablate", _ablate, "search with each value of one setting", commands)
    for each in (search, ablate):
        _add_settings(each)
    ablate.add_argument(
        "--vary", required=True, choices=("position", "user_place", "task_tokens", "criterion")
    )
    ablate.add_argument("--limit", type=int, metavar="N", help="test examples")

    evaluate = command("evaluate", _evaluate, "found prompts beside manual ones", commands)
    evaluate.add_argument("folder", metavar="RUN")
    evaluate.add_argument("triggers", nargs="+", metavar="DIR")
    evaluate.add_argument("--split", default="test", choices=("validation", "test"))
    evaluate.add_argument("--limit", type=int, metavar="N")
    for each in (search, ablate, evaluate):
        add_mesh(each)


def _add_settings(search: argparse.ArgumentParser) -> None:
    search.add_argument("folder", metavar="RUN")
    search.add_argument("--family", required=True, choices=("sequential", "direct", "explanation"))
    search.add_argument("--out", required=True, metavar="DIR")
    for name, default, help in (
        ("task-tokens", 5, "tokens that all users share"),
        ("user-tokens", 0, "tokens of each user's own"),
        ("candidates", 5, "tried for each position"),
        ("epochs", 20, "of task and of user tokens, in turn"),
        ("patience", 4, "epochs without a change before the end"),
        ("users", 0, "at most so many validation users, 0 for all"),
        ("gradient-examples", 256, "training examples of a round's gradient"),
        ("evidence", 3, "training examples of each user for the user's own tokens"),
        ("beam", 5, "of the ranking, or of the texts"),
        ("batch-size", 40, "prompts scored together"),
        ("max-length", 64, "tokens of a text"),
        ("seed", 0, "of the start and of every draw"),
    ):
        search.add_argument(f"--{name}", type=int, default=default, metavar="N", help=help)
    for name, number, help in (
        ("accept-level", 0.1, "p-value that a change needs; 1 takes any improvement"),
        ("racing-level", 0.2, "p-value that drops a candidate early; 0 drops none"),
        ("coefficient", -1.0, "of NDCG@5 or ROUGE-L; below 0: 1 and 0.1, as published"),
    ):
        search.add_argument(f"--{name}", type=float, default=number, metavar="X", help=help)
    search.add_argument("--position", default="suffix", choices=("suffix", "prefix", "both"))
    search.add_argument("--user-place", default="last", choices=("last", "middle", "first"))
    search.add_argument("--initial", default="random", metavar="random|ID|WORDS")
    search.add_argument("--criterion", default="metric", choices=("metric", "loss"))
    search.add_argument("--method", default="beam", choices=("certified", "exact", "beam"))


def _search(arguments: argparse.Namespace) -> None:
    from p5jax.triggers.searching import search

    with opened(arguments) as run:
        search(run, _config(arguments), arguments.out)


def _ablate(arguments: argparse.Namespace) -> None:
    from p5jax.triggers.ablation import ablate
    from p5jax.triggers.evaluation import format_comparison

    with opened(arguments) as run:
        config, limit = _config(arguments), arguments.limit
        rows = ablate(run, config, arguments.vary, arguments.out, limit)
    _print(format_comparison(rows))


def _evaluate(arguments: argparse.Namespace) -> None:
    from p5jax.evaluation.results import LEAKY_NOTE
    from p5jax.triggers.evaluation import evaluate_triggers, format_comparison

    with opened(arguments) as run:
        rows = evaluate_triggers(run, arguments.triggers, arguments.split, arguments.limit)
    if run.dataset.leaky:
        _print(LEAKY_NOTE)
    _print(format_comparison(rows))


def _print(text: str) -> None:
    from p5jax.parallel import distributed

    if distributed.is_primary():
        print(text)


def _config(arguments: argparse.Namespace) -> Any:
    from p5jax.triggers.layout import Layout
    from p5jax.triggers.settings import SearchConfig, SurrogateConfig

    def settings(cls: type) -> dict[str, Any]:
        names = {field.name for field in fields(cls)}
        return {name: value for name, value in vars(arguments).items() if name in names}

    return SearchConfig(
        **settings(SearchConfig),
        layout=Layout(**settings(Layout)),
        surrogate=SurrogateConfig(**settings(SurrogateConfig)),
    )
