"""The commands on P5 runs: train, evaluate, recommend, explain, compare, report and export."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from p5jax.cli.command import Command, opened_in_session
from p5jax.cli.options import (
    RESUMES,
    add_gin,
    add_limit,
    add_mesh,
    add_options,
    add_out,
    add_split,
    from_options,
    names,
)
from p5jax.cli.output import (
    note,
    print_computed,
    print_json,
    print_results,
    show,
    warn_of_leak,
)

if TYPE_CHECKING:
    from p5jax.serving.recommender import Recommender

# Settings of an evaluation that have no option of their own.
KEPT = ("batch_size", "yes_no_users", "max_length", "seed")


def _train(arguments: Namespace) -> None:
    from p5jax.jobs.train import train
    from p5jax.parallel import runtime

    with runtime.session():
        train(*arguments.gin_file, bindings=arguments.bindings)


def _run_option(parser: ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", help="the folder of a run")


def used_run_options(parser: ArgumentParser) -> None:
    _run_option(parser)
    parser.add_argument(
        "--from-step",
        type=int,
        metavar="N",
        help="use the checkpoint of this step (default: the best)",
    )


def opening(arguments: Namespace) -> tuple[str, int, int | None]:
    return arguments.folder, arguments.model_parallel, arguments.from_step


def _recommender(arguments: Namespace) -> Recommender:
    from p5jax.runs.run import Run
    from p5jax.serving.recommender import Recommender

    run = Run.load(arguments.folder, step=arguments.from_step)
    return Recommender.load(run, arguments.triggers)


def _user_option(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--user", required=True, metavar="KEY", help="the user's key in the source data"
    )


def _triggers_option(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--triggers", metavar="DIR", help="use the prompt that p5jax triggers search found"
    )


def _evaluate_options(parser: ArgumentParser) -> None:
    from p5jax.evaluation.settings import EvaluationConfig

    used_run_options(parser)
    add_split(parser)
    parser.add_argument(
        "--families",
        action="extend",
        type=names,
        metavar="a,b",
        help="families to evaluate, separated by commas (default: all)",
    )
    parser.add_argument(
        "--prompts",
        action="extend",
        type=names,
        metavar="2-3,5-8",
        help="prompts to evaluate, separated by commas (default: a seen one for each kind of"
        " answer, and all unseen ones)",
    )
    add_limit(parser)
    parser.add_argument(
        "--dataset",
        metavar="DIR",
        help="ask about the items of another dataset, for users with the same keys (default"
        " prompts: the zero-shot ones)",
    )
    add_options(parser, EvaluationConfig, skip=KEPT)
    _triggers_option(parser)
    add_mesh(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _evaluate(arguments: Namespace) -> None:
    from p5jax.evaluation.settings import EvaluationConfig
    from p5jax.jobs.evaluate import evaluate

    config = from_options(EvaluationConfig, arguments)
    with opened_in_session(*opening(arguments)) as run:
        print_computed(
            lambda: evaluate(
                run,
                arguments.split,
                arguments.families,
                arguments.prompts,
                arguments.limit,
                config,
                dataset=arguments.dataset,
                triggers=arguments.triggers,
            ),
            lambda results: print_results(results, run.dataset.leaky, arguments.json),
        )


def _recommend_options(parser: ArgumentParser) -> None:
    from p5jax.serving.settings import BulkConfig

    used_run_options(parser)
    _user_option(parser)
    add_options(parser, BulkConfig, skip=("batch_size",))
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="KEY,KEY",
        help="items not to recommend; give a key that holds a comma alone, and others again",
    )
    _triggers_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _recommend(arguments: Namespace) -> None:
    recommender = _recommender(arguments)
    warn_of_leak(recommender.run.dataset)
    found = recommender.recommend(
        [arguments.user],
        arguments.k,
        prompt=arguments.prompt,
        method=arguments.method,
        beam=arguments.beam,
        exact=arguments.exact,
        memory=arguments.memory,
        exclude_history=arguments.exclude_history,
        exclude=_keys(arguments.exclude, recommender.run.dataset.item_keys),
    )[0]
    if arguments.json:
        print_json({"user": arguments.user, **asdict(found)})
        return
    for place, item in enumerate(found.items, 1):
        show(f"{place:3d}  {item.log_probability:8.3f}  {item.item}  {item.title or ''}".rstrip())
    if not found.exact:
        note(
            f"a search of width {max(arguments.beam, arguments.k)} cannot tell whether these are"
            f" the model's best {arguments.k}; --method certified --exact can"
        )


def _keys(texts: Sequence[str], known: Sequence[str]) -> list[str]:
    """Read keys from texts, each of keys that are separated by commas, or one that holds commas."""
    return [key for text in texts for key in ((text,) if text in known else names(text))]


def _rank_options(parser: ArgumentParser) -> None:
    from p5jax.serving.settings import BulkConfig

    used_run_options(parser)
    add_out(parser, RESUMES)
    add_options(parser, BulkConfig)
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="rank the I-th of N shares of the users alone, for p5jax merge",
    )
    _triggers_option(parser)
    add_mesh(parser)


def _rank(arguments: Namespace) -> None:
    from p5jax.parallel import distributed
    from p5jax.serving.recommender import Recommender
    from p5jax.serving.settings import BulkConfig
    from p5jax.triggers.prompt import load_triggers

    config = from_options(BulkConfig, arguments)
    with opened_in_session(*opening(arguments)) as run:
        if distributed.is_primary():
            warn_of_leak(run.dataset)
        triggers = load_triggers(arguments.triggers, run) if arguments.triggers else None
        Recommender(run, triggers).recommend_all(arguments.out, config, shard=arguments.shard)


def _merge_options(parser: ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", metavar="DIR", help="what each rank --shard wrote")
    add_out(parser, RESUMES)


def _merge(arguments: Namespace) -> None:
    from p5jax.serving.merging import merge_rankings

    merge_rankings(arguments.folders, arguments.out)
    show(f"wrote {arguments.out}")


def _explain_options(parser: ArgumentParser) -> None:
    used_run_options(parser)
    _user_option(parser)
    parser.add_argument(
        "--item", required=True, metavar="KEY", help="the item's key in the source data"
    )
    parser.add_argument(
        "--prompt",
        metavar="ID",
        help="prompt to answer (default: 3-1, or 3-8 for an item without a title)",
    )
    _triggers_option(parser)


def _explain(arguments: Namespace) -> None:
    recommender = _recommender(arguments)
    show(recommender.explain(arguments.user, arguments.item, prompt=arguments.prompt))


def _generate_options(parser: ArgumentParser) -> None:
    used_run_options(parser)
    parser.add_argument("--text", required=True, help="the prompt")
    _triggers_option(parser)


def _generate(arguments: Namespace) -> None:
    show(_recommender(arguments).generate(arguments.text))


def _compare_options(parser: ArgumentParser) -> None:
    parser.add_argument("run_a", metavar="RUN_A", help="the folder of an evaluated run")
    parser.add_argument("run_b", metavar="RUN_B", help="the one compared with it")
    add_split(parser)


def _compare(arguments: Namespace) -> None:
    from p5jax.evaluation.compare import format_comparison, leaky_runs
    from p5jax.evaluation.results import LEAKY_NOTE
    from p5jax.jobs.compare import compare

    comparison = compare(arguments.run_a, arguments.run_b, arguments.split)
    for run in leaky_runs(arguments.run_a, arguments.run_b, arguments.split):
        show(f"{run}: {LEAKY_NOTE}")
    show(format_comparison(comparison))


def _report_options(parser: ArgumentParser) -> None:
    _run_option(parser)
    parser.add_argument(
        "--triggers",
        nargs="+",
        action="extend",
        default=[],
        metavar="DIR",
        help="searches for triggers to show",
    )


def _report(arguments: Namespace) -> None:
    from p5jax.reports.run_report import write_report

    show(write_report(arguments.folder, arguments.triggers))


def _export_options(parser: ArgumentParser) -> None:
    used_run_options(parser)
    add_out(parser)
    parser.add_argument(
        "--drop-whole-words",
        action="store_true",
        help="leave out the whole-word table, which changes the answers",
    )


def _export(arguments: Namespace) -> None:
    from p5jax.jobs.export import export
    from p5jax.runs.run import Run

    run = Run.load(arguments.folder, step=arguments.from_step)
    export(run, arguments.out, drop_whole_words=arguments.drop_whole_words)
    show(f"wrote {arguments.out}")


COMMANDS = (
    Command("train", "Train, or resume, a model from gin files", add_gin, _train),
    Command(
        "evaluate",
        "Measure a run's prompts, with baselines beside them",
        _evaluate_options,
        _evaluate,
    ),
    Command(
        "compare",
        "Compare two evaluated runs by a paired bootstrap over users",
        _compare_options,
        _compare,
    ),
    Command("recommend", "Recommend the next items for one user", _recommend_options, _recommend),
    Command("rank", "Recommend for every user and write Parquet files", _rank_options, _rank),
    Command("merge", "Join the shards of a ranking", _merge_options, _merge),
    Command("explain", "Explain why a user may like an item", _explain_options, _explain),
    Command("generate", "Print the model's answer to any text", _generate_options, _generate),
    Command("report", "Write a self-contained HTML report of a run", _report_options, _report),
    Command(
        "export",
        "Write the weights for Hugging Face's T5 (safetensors)",
        _export_options,
        _export,
    ),
)
