"""The commands on P5 runs: train, evaluate, compare, report and export."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from p5jax.cli.command import Command, opened_in_session
from p5jax.cli.options import (
    REPLACES,
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
    print_computed,
    print_results,
    show,
)

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


def triggers_option(parser: ArgumentParser) -> None:
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
    parser.add_argument(
        "--average",
        action="store_true",
        help="also measure the prompts that rank the catalogue together, by the mean of the"
        " probabilities that they give",
    )
    add_options(parser, EvaluationConfig, skip=KEPT)
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="evaluate the I-th of N shares of the examples alone, for p5jax merge",
    )
    triggers_option(parser)
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
                average=arguments.average,
                shard=arguments.shard,
            ),
            lambda results: print_results(results, run.dataset.leaky, arguments.json),
        )


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
        "beside", nargs="?", metavar="RUN_B", help="an evaluated run to set beside it"
    )
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

    show(write_report(arguments.folder, arguments.triggers, arguments.beside))


def _export_options(parser: ArgumentParser) -> None:
    from p5jax.serving.settings import EXPORT_FORMATS, ProgramsConfig

    used_run_options(parser)
    add_out(parser, REPLACES.format("an export of the same format"))
    parser.add_argument(
        "--format",
        dest="file_format",
        default=EXPORT_FORMATS[0],
        choices=EXPORT_FORMATS,
        help="weights for Hugging Face's T5 (default), or programs that rank without p5jax",
    )
    parser.add_argument(
        "--drop-whole-words",
        action="store_true",
        help="leave out the whole-word table, which changes the answers (format huggingface)",
    )
    add_options(parser, ProgramsConfig)


def _export(arguments: Namespace) -> None:
    from p5jax.jobs.export import export
    from p5jax.runs.run import Run
    from p5jax.serving.settings import ProgramsConfig

    programs = from_options(ProgramsConfig, arguments)
    run = Run.load(arguments.folder, step=arguments.from_step)
    export(
        run,
        arguments.out,
        file_format=arguments.file_format,
        drop_whole_words=arguments.drop_whole_words,
        programs=programs,
    )
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
    Command("report", "Write a self-contained HTML report of a run", _report_options, _report),
    Command(
        "export",
        "Write weights for Hugging Face's T5, or programs that rank without p5jax",
        _export_options,
        _export,
    ),
)
