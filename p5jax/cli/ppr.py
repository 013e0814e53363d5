"""The commands `p5jax ppr …`: soft prefix prompts from user profiles, and their backbones."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING

from p5jax.cli.command import Command, opened_in_session
from p5jax.cli.options import RESUMES, add_gin, add_limit, add_mesh, add_out, add_split
from p5jax.cli.output import (
    print_cold_rows,
    print_comparison,
    print_computed,
    print_json,
    print_leaky,
    print_results,
    print_text,
    show,
)
from p5jax.core.errors import UserError

if TYPE_CHECKING:
    from p5jax.jobs.evaluate_tuned import ColdResults

# Names and defaults of modules that import jax are written again here, so that help need not wait;
# tests/cli/test_commands.py compares them.
_MODES = ("light", "full", "finetune")
_ABLATIONS = ("contrastive",)


def _pretrain(arguments: Namespace) -> None:
    from p5jax.jobs.pretrain import pretrain
    from p5jax.parallel import runtime

    with runtime.session():
        pretrain(*arguments.gin_file, bindings=arguments.bindings)


def _tune_options(parser: ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", help="the folder of a backbone")
    add_out(parser, RESUMES)
    _mode_and_seed(parser)
    add_gin(parser, "ppr/tune.gin")


def _mode_and_seed(parser: ArgumentParser) -> None:
    parser.add_argument("--mode", choices=_MODES, help="what is trained (default: the gin file's)")
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="seed of the protocol and of training (default: the gin file's)",
    )


def _tune(arguments: Namespace) -> None:
    from p5jax.jobs.tune import tune
    from p5jax.parallel import runtime

    with runtime.session():
        tune(
            arguments.folder,
            arguments.out,
            *arguments.gin_file,
            mode=arguments.mode,
            seed=arguments.seed,
            bindings=arguments.bindings,
        )


def _study_options(parser: ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DATASET", help="a dataset folder")
    add_out(parser, RESUMES)
    parser.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="repetitions, each a seed (default 5)"
    )
    parser.add_argument(
        "--ablate",
        action="append",
        default=[],
        choices=_ABLATIONS,
        help="also tune light without parts of this loss",
    )
    parser.add_argument(
        "--noise",
        action="store_true",
        help="also tune light with 10 to 50 %% of the attributes replaced",
    )
    parser.add_argument(
        "--source", metavar="RUN", help="take profiles from the backbone of another dataset"
    )
    add_gin(parser, "ppr/study.gin")


def _study(arguments: Namespace) -> None:
    from p5jax.jobs.study import study
    from p5jax.parallel import runtime
    from p5jax.ppr.cold_study import total_seconds

    with runtime.session():
        table = study(
            arguments.folder,
            arguments.out,
            *arguments.gin_file,
            seeds=arguments.seeds,
            ablate=arguments.ablate,
            noise=arguments.noise,
            source=arguments.source,
            bindings=arguments.bindings,
        )
    print_cold_rows(table, "finetune")
    parts = total_seconds(arguments.out).items()
    print_text("seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in parts))


def _report_options(parser: ArgumentParser) -> None:
    parser.add_argument("folder", metavar="STUDY", help="the folder of a study")


def _report(arguments: Namespace) -> None:
    from p5jax.reports.study_report import write_report

    show(write_report(arguments.folder))


def _predict_options(parser: ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", help="the folder of a backbone")
    parser.add_argument("--attribute", required=True, metavar="NAME", help="attribute to predict")
    add_out(parser, RESUMES)
    _mode_and_seed(parser)
    add_gin(parser, "ppr/predict.gin")


def _predict(arguments: Namespace) -> None:
    from p5jax.jobs.predict import predict
    from p5jax.parallel import runtime
    from p5jax.ppr.prediction.task import format_prediction

    with runtime.session():
        print_computed(
            lambda: predict(
                arguments.folder,
                arguments.attribute,
                arguments.out,
                *arguments.gin_file,
                mode=arguments.mode,
                seed=arguments.seed,
                bindings=arguments.bindings,
            ),
            lambda table: print_text(format_prediction(arguments.attribute, table)),
        )


def _recommend_options(parser: ArgumentParser) -> None:
    parser.add_argument("folder", metavar="TUNED", help="the folder of a tuned model")
    parser.add_argument("--user", metavar="KEY", help="the user's key in the source data")
    parser.add_argument(
        "--profile",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an attribute; give it again for more",
    )
    parser.add_argument("-k", type=int, default=10, metavar="K", help="items (default 10)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _recommend(arguments: Namespace) -> None:
    from p5jax.parallel import runtime
    from p5jax.ppr.cold.recommend import parse_profile, recommend
    from p5jax.ppr.tuned import Tuned

    profile = parse_profile(arguments.profile)
    with runtime.session():
        tuned = Tuned.load(arguments.folder)
        items = recommend(tuned, user=arguments.user, profile=profile, k=arguments.k)
    if arguments.json:
        print_json({"user": arguments.user, "items": [vars(item) for item in items]})
        return
    for place, item in enumerate(items, 1):
        show(f"{place:3}  {item.score:9.4f}  {item.item}  {item.title or ''}".rstrip())


def _soft(arguments: Namespace) -> None:
    from p5jax.jobs.soft import soft
    from p5jax.parallel import runtime

    with runtime.session():
        soft(*arguments.gin_file, bindings=arguments.bindings)


def _compare_options(parser: ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", help="the folder of a P5 run")
    parser.add_argument(
        "--soft",
        nargs="+",
        action="extend",
        required=True,
        metavar="DIR",
        help="soft prompts of p5jax ppr soft",
    )
    parser.add_argument(
        "--triggers",
        nargs="+",
        action="extend",
        default=[],
        metavar="DIR",
        help="searches for triggers",
    )
    add_split(parser)
    add_limit(parser)
    add_mesh(parser)


def _compare(arguments: Namespace) -> None:
    from p5jax.ppr.soft.comparison import compare_prompts

    a = arguments
    with opened_in_session(a.folder, a.model_parallel) as run:
        print_computed(
            lambda: compare_prompts(run, a.soft, a.triggers, a.split, a.limit),
            lambda rows: print_comparison(rows, run.dataset.leaky),
        )


def _evaluate_options(parser: ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", help="the folder of a backbone")
    parser.add_argument("tuned", nargs="*", metavar="TUNED", help="models tuned from it")
    add_split(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_mesh(parser)


def _evaluate(arguments: Namespace) -> None:
    if arguments.tuned:
        if arguments.split != "test":
            raise UserError("--split validation: tuned models are evaluated on test users alone")
        _evaluate_tuned(arguments)
        return
    from p5jax.jobs.evaluate_backbone import evaluate_backbone
    from p5jax.parallel import runtime

    with runtime.session():
        print_computed(
            lambda: evaluate_backbone(
                arguments.folder, arguments.split, model_parallel=arguments.model_parallel
            ),
            lambda found: print_results(found.results, found.leaky, arguments.json),
        )


def _evaluate_tuned(arguments: Namespace) -> None:
    from p5jax.jobs.evaluate_tuned import evaluate_tuned
    from p5jax.parallel import runtime
    from p5jax.ppr.cold.results import summarise

    def show_all(found: ColdResults) -> None:
        if arguments.json:
            rows = [asdict(row) for row in summarise(found.table, found.reference)]
            print_json({"leaky_item_ids": found.dataset.leaky, "rows": rows})
            return
        print_leaky(found.dataset.leaky)
        print_cold_rows(found.table, found.reference)

    with runtime.session():
        print_computed(
            lambda: evaluate_tuned(
                arguments.folder, arguments.tuned, model_parallel=arguments.model_parallel
            ),
            show_all,
        )


COMMANDS = (
    Command(
        "ppr study",
        "Run a whole study of cold users: pre-train, tune in all modes, evaluate",
        _study_options,
        _study,
    ),
    Command(
        "ppr report", "Write a self-contained HTML report of a study", _report_options, _report
    ),
    Command(
        "ppr pretrain",
        "Pre-train, or resume, a sequential backbone from gin files",
        add_gin,
        _pretrain,
    ),
    Command("ppr tune", "Tune a backbone on cold users' profiles", _tune_options, _tune),
    Command(
        "ppr evaluate",
        "Evaluate a backbone, or tuned models on cold users, beside baselines",
        _evaluate_options,
        _evaluate,
    ),
    Command(
        "ppr recommend",
        "Recommend items for a user or for a profile alone",
        _recommend_options,
        _recommend,
    ),
    Command(
        "ppr predict",
        "Predict a profile attribute from the others and behaviour",
        _predict_options,
        _predict,
    ),
    Command("ppr soft", "Train a soft prompt on a frozen P5 run from gin files", add_gin, _soft),
    Command(
        "ppr compare",
        "Compare soft prompts, trigger tokens and manual prompts of a run",
        _compare_options,
        _compare,
    ),
)
