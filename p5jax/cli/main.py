"""The p5jax command: parse the line, call the library, print; no logic of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from p5jax.cli import data as cli_data
from p5jax.cli import ppr as cli_ppr
from p5jax.cli import tasks as cli_tasks
from p5jax.cli import triggers as cli_triggers
from p5jax.cli.data import print_json, print_results
from p5jax.cli.mesh import add_mesh, opened
from p5jax.core.errors import Interrupted, UserError, in_words

# Imports of the library stand inside the commands: `p5jax --help` must not wait for jax.


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; return its exit status (2 for a user's mistake)."""
    words, options = cli_tasks.split(sys.argv[1:] if argv is None else argv)
    arguments, rest = _parser().parse_known_args(words)
    try:
        overrides = _overrides(arguments, rest)
        if arguments.run is cli_tasks.cache:
            overrides = [options]
        return arguments.run(arguments, *overrides) or 0
    except UserError as error:
        print(f"p5jax: error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        from p5jax.parallel import distributed

        distributed.report(str(stop))
        return 128 + stop.signal
    except KeyboardInterrupt:
        print("p5jax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        print(f"p5jax: error: {in_words(error)}", file=sys.stderr)
        return 2


def _overrides(arguments: argparse.Namespace, rest: list[str]) -> list[list[str]]:
    takes_gin = "gin_file" in arguments
    unknown = [word for word in rest if not (takes_gin and word.startswith("--gin."))]
    if unknown:
        raise UserError(f"unknown argument {unknown[0]!r}; see p5jax {arguments.command} --help")
    return [[word.removeprefix("--gin.") for word in rest]] if takes_gin else []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="p5jax", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, help: str, parent: Any = commands) -> argparse.ArgumentParser:
        sub = parent.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.set_defaults(run=run)
        return sub

    quickstart = command(
        "quickstart", _quickstart, "prepare, train, evaluate and report a toy world"
    )
    quickstart.add_argument("--out", default="runs/quickstart", metavar="DIR")

    data = command("data", None, "prepare, inspect and audit datasets")
    cli_data.add(
        data.add_subparsers(dest="data_command", required=True, metavar="COMMAND"), command
    )

    tasks = command("tasks", None, "SeqIO tasks of a run or a dataset: list, show, cache")
    cli_tasks.add(
        tasks.add_subparsers(dest="tasks_command", required=True, metavar="COMMAND"), command
    )

    triggers = command("triggers", None, "trigger tokens for the prompts of a trained run")
    cli_triggers.add(
        triggers.add_subparsers(dest="triggers_command", required=True, metavar="COMMAND"), command
    )

    ppr = command("ppr", None, "soft prompts from user profiles, and sequential backbones")
    cli_ppr.add(ppr.add_subparsers(dest="ppr_command", required=True, metavar="COMMAND"), command)

    train = command("train", _train, "train a model from a gin file (--gin.NAME=VALUE overrides)")
    train.add_argument("--gin_file", action="append", required=True, metavar="FILE")

    evaluate = command("evaluate", _evaluate, "measure a run's families beside the baselines")
    evaluate.add_argument("folder", metavar="RUN")
    evaluate.add_argument("--split", default="test", choices=("validation", "test"))
    evaluate.add_argument("--families", type=_names, metavar="a,b")
    evaluate.add_argument("--prompts", type=_names, metavar="2-3,5-8")
    evaluate.add_argument(
        "--limit", type=int, metavar="N", help="N examples of a family, always the same"
    )
    _add_ranking(evaluate)
    add_mesh(evaluate)
    evaluate.add_argument("--json", action="store_true")

    recommend = command("recommend", _recommend, "the k most probable next items of a user")
    recommend.add_argument("folder", metavar="RUN")
    recommend.add_argument("--user", required=True, metavar="KEY")
    recommend.add_argument(
        "--exclude", type=_names, default=(), metavar="KEY,KEY", help="items not to recommend"
    )
    recommend.add_argument("--json", action="store_true")

    rank = command("rank", _rank, "the k most probable next items of every user, as Parquet")
    rank.add_argument("folder", metavar="RUN")
    rank.add_argument("--out", required=True, metavar="DIR")
    rank.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="users at a time, on all devices"
    )
    add_mesh(rank)
    for each in (recommend, rank):
        each.add_argument("-k", type=int, default=10)
        each.add_argument("--prompt", metavar="ID")
        each.add_argument("--exclude-history", action=argparse.BooleanOptionalAction, default=True)
        _add_ranking(each)

    explain = command("explain", _explain, "why a user may like an item")
    explain.add_argument("folder", metavar="RUN")
    explain.add_argument("--user", required=True, metavar="KEY")
    explain.add_argument("--item", required=True, metavar="KEY")
    explain.add_argument("--prompt", metavar="ID")

    generate = command("generate", _generate, "the model's answer to any text")
    generate.add_argument("folder", metavar="RUN")
    generate.add_argument("--text", required=True)
    for each in (evaluate, recommend, rank, explain, generate):
        each.add_argument(
            "--triggers", metavar="DIR", help="use the prompt of p5jax triggers search"
        )

    compare = command("compare", _compare, "two runs on the same examples, by paired bootstrap")
    compare.add_argument("run_a", metavar="RUN_A")
    compare.add_argument("run_b", metavar="RUN_B")
    compare.add_argument("--split", default="test", choices=("validation", "test"))

    export = command("export", _export, "the model as a Hugging Face T5 (safetensors)")
    export.add_argument("folder", metavar="RUN")
    export.add_argument("--out", required=True, metavar="DIR")
    export.add_argument(
        "--drop-whole-words",
        action="store_true",
        help="leave out the whole-word table, which changes the answers",
    )

    report = command("report", _report, "a run as one self-contained HTML page")
    report.add_argument("folder", metavar="RUN")
    report.add_argument("--triggers", nargs="+", default=(), metavar="DIR", help="found prompts")
    return parser


def _add_ranking(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--method",
        default="certified",
        choices=("certified", "exact", "beam"),
        help="how the catalogue is searched",
    )
    command.add_argument("--beam", type=int, default=64, metavar="N", help="width of the search")
    command.add_argument(
        "--exact", action="store_true", help="widen a certified search until the list is exact"
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _quickstart(arguments: argparse.Namespace) -> None:
    from p5jax.jobs.quickstart import quickstart

    quickstart(arguments.out)


def _train(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from p5jax.jobs.train import train_from_gin
    from p5jax.parallel import runtime

    with runtime.session():
        train_from_gin(arguments.gin_file, overrides)


def _evaluate(arguments: argparse.Namespace) -> None:
    from p5jax.evaluation.evaluators import evaluate_run
    from p5jax.evaluation.settings import EvaluationConfig

    config = EvaluationConfig(method=arguments.method, beam=arguments.beam, exact=arguments.exact)
    with opened(arguments) as run:
        evaluated, families, prompts = _chosen(run, arguments)
        results = evaluate_run(
            evaluated,
            families=families,
            prompts=prompts,
            split=arguments.split,
            limit=arguments.limit,
            config=config,
        )
    print_results(results, run.dataset.leaky, arguments.json)


def _chosen(run: Any, arguments: argparse.Namespace) -> tuple[Any, Any, Any]:
    """What is evaluated: the run's families and prompts, or the prompt of trigger tokens."""
    if not arguments.triggers:
        return run, arguments.families, arguments.prompts
    from p5jax.triggers.layout import PROMPT_ID
    from p5jax.triggers.prompt import triggered

    if arguments.families or arguments.prompts:
        raise UserError("--triggers: found it with --families or --prompts, expected it alone")
    evaluated = triggered(run, arguments.triggers)
    return evaluated, tuple(evaluated.families), (PROMPT_ID,)


def _recommend(arguments: argparse.Namespace) -> None:
    from p5jax import load

    recommender = load(arguments.folder, arguments.triggers)
    _warn_of_leak(recommender.run.dataset)
    found = recommender.recommend(
        [arguments.user],
        arguments.k,
        prompt=arguments.prompt,
        method=arguments.method,
        beam=arguments.beam,
        exact=arguments.exact,
        exclude_history=arguments.exclude_history,
        exclude=arguments.exclude,
    )[0]
    if arguments.json:
        print_json({"user": arguments.user, **asdict(found)})
        return
    for place, item in enumerate(found.items, 1):
        print(f"{place:3d}  {item.log_probability:8.3f}  {item.item}  {item.title or ''}".rstrip())
    if not found.exact:
        print(
            f"note: a search of width {max(arguments.beam, arguments.k)} cannot tell whether these"
            f" are the model's best {arguments.k}; --method certified --exact can",
            file=sys.stderr,
        )


def _warn_of_leak(dataset: Any) -> None:
    if dataset.leaky:
        print("note: item ids are `released`: leaky, no fair recommendations", file=sys.stderr)


def _rank(arguments: argparse.Namespace) -> None:
    from p5jax.parallel import distributed
    from p5jax.serving.bulk import rank_users
    from p5jax.serving.recommender import Recommender
    from p5jax.serving.settings import BulkConfig
    from p5jax.triggers.prompt import load_triggers

    config = BulkConfig(**{f.name: getattr(arguments, f.name) for f in fields(BulkConfig)})
    with opened(arguments) as run:
        if distributed.is_primary():
            _warn_of_leak(run.dataset)
        triggers = load_triggers(arguments.triggers, run) if arguments.triggers else None
        rank_users(Recommender(run, triggers), arguments.out, config)


def _explain(arguments: argparse.Namespace) -> None:
    from p5jax import load

    recommender = load(arguments.folder, arguments.triggers)
    print(recommender.explain(arguments.user, arguments.item, prompt=arguments.prompt))


def _generate(arguments: argparse.Namespace) -> None:
    from p5jax import load

    print(load(arguments.folder, arguments.triggers).generate(arguments.text))


def _compare(arguments: argparse.Namespace) -> None:
    from p5jax.evaluation.compare import compare_runs, format_comparison, leaky_runs
    from p5jax.evaluation.results import LEAKY_NOTE

    comparison = compare_runs(arguments.run_a, arguments.run_b, split=arguments.split)
    for run in leaky_runs(arguments.run_a, arguments.run_b, split=arguments.split):
        print(f"{run}: {LEAKY_NOTE}")
    print(format_comparison(comparison))


def _export(arguments: argparse.Namespace) -> None:
    from p5jax.models.checkpoints.hugging_face import export_hugging_face
    from p5jax.runs.run import Run

    run = Run.load(arguments.folder)
    export_hugging_face(
        run.params,
        run.model.config,
        arguments.out,
        drop_whole_words=arguments.drop_whole_words,
        tokenizer_size=run.vocabulary.size,
    )
    print(f"wrote {arguments.out}")


def _report(arguments: argparse.Namespace) -> None:
    from p5jax.reports.run_report import write_report

    print(write_report(arguments.folder, arguments.triggers))


if __name__ == "__main__":
    sys.exit(main())
