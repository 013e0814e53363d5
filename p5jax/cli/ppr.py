"""The commands `p5jax ppr …`: soft prefix prompts from user profiles, and their backbones."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from p5jax.cli.data import print_json, print_results
from p5jax.cli.mesh import add_mesh, opened
from p5jax.core.errors import UserError


def add(commands: Any, command: Any) -> None:
    """Add the commands below `p5jax ppr`; `command` makes one."""
    pretrain = command(
        "pretrain", _pretrain, "train a backbone from a gin file (--gin.NAME=VALUE)", commands
    )
    pretrain.add_argument("--gin_file", action="append", required=True, metavar="FILE")

    _add_tuning(commands, command)
    _add_soft(commands, command)

    evaluate = command(
        "evaluate",
        _evaluate,
        "a backbone on the whole catalogue, or tuned models on cold users, beside baselines",
        commands,
    )
    evaluate.add_argument("folder", metavar="RUN")
    evaluate.add_argument("tuned", nargs="*", metavar="TUNED")
    evaluate.add_argument("--split", default="test", choices=("validation", "test"))
    evaluate.add_argument("--json", action="store_true")
    add_mesh(evaluate)


def _add_tuning(commands: Any, command: Any) -> None:
    """Add what trains and uses prompted models."""
    tune = command("tune", _tune, "tune a backbone on cold users", commands)
    tune.add_argument("folder", metavar="RUN")
    tune.add_argument("--out", required=True, metavar="DIR")
    tune.add_argument("--mode", choices=("light", "full", "finetune"))
    tune.add_argument("--seed", type=int, metavar="N", help="of the protocol and of the tuning")

    study = command(
        "study",
        _study,
        "protocol, pre-training, all modes and a table, by seed",
        commands,
    )
    study.add_argument("folder", metavar="DATASET")
    study.add_argument("--out", required=True, metavar="DIR")
    study.add_argument("--seeds", type=int, default=5, metavar="N")
    study.add_argument("--ablate", action="append", default=[], choices=("contrastive",))
    study.add_argument("--noise", action="store_true", help="light with 10 to 50 %% wrong profiles")
    study.add_argument("--source", metavar="RUN", help="profiles from another dataset's backbone")

    report = command("report", _report, "a study as one self-contained HTML page", commands)
    report.add_argument("folder", metavar="STUDY")

    predict = command("predict", _predict, "an attribute from the others and behaviour", commands)
    predict.add_argument("folder", metavar="RUN")
    predict.add_argument("--attribute", required=True, metavar="NAME")
    predict.add_argument("--out", required=True, metavar="DIR")
    predict.add_argument("--mode", choices=("light", "full", "finetune"))
    predict.add_argument("--seed", type=int, metavar="N", help="of the protocol and of training")
    for each in (tune, study, predict):
        each.add_argument("--gin_file", action="append", metavar="FILE")

    recommend = command("recommend", _recommend, "a tuned model's best items", commands)
    recommend.add_argument("folder", metavar="TUNED")
    recommend.add_argument("--user", metavar="KEY")
    recommend.add_argument("--profile", action="append", default=[], metavar="NAME=VALUE")
    recommend.add_argument("-k", type=int, default=10)
    recommend.add_argument("--json", action="store_true")


def _add_soft(commands: Any, command: Any) -> None:
    """Add what trains and judges soft prompts on P5 runs."""
    soft = command("soft", _soft, "a soft prompt on a frozen P5 run, from a gin file", commands)
    soft.add_argument("--gin_file", action="append", required=True, metavar="FILE")

    compare = command(
        "compare", _compare, "soft prompts, trigger tokens and manual prompts of one run", commands
    )
    compare.add_argument("folder", metavar="RUN")
    compare.add_argument("--soft", nargs="+", required=True, metavar="DIR")
    compare.add_argument("--triggers", nargs="+", default=[], metavar="DIR")
    compare.add_argument("--split", default="test", choices=("validation", "test"))
    compare.add_argument("--limit", type=int, metavar="N")
    add_mesh(compare)


def _pretrain(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from p5jax.jobs.pretrain import pretrain_from_gin
    from p5jax.parallel import runtime

    with runtime.session():
        pretrain_from_gin(arguments.gin_file, overrides)


def _tune(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from p5jax.jobs.tune import tune_from_gin
    from p5jax.parallel import runtime

    files = arguments.gin_file or ["ppr/tune.gin"]
    with runtime.session():
        tune_from_gin(
            arguments.folder, arguments.out, arguments.mode, arguments.seed, files, overrides
        )


def _study(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from p5jax.jobs.tune import study_from_gin
    from p5jax.parallel import runtime
    from p5jax.ppr.cold_study import NOISE, total_seconds

    files = arguments.gin_file or ["ppr/study.gin"]
    noise = NOISE if arguments.noise else ()
    with runtime.session():
        table = study_from_gin(
            *(arguments.folder, arguments.out, arguments.seeds, arguments.ablate, noise),
            *(arguments.source, files, overrides),
        )
    _print_rows(table, "finetune")
    parts = total_seconds(arguments.out).items()
    _print("seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in parts))


def _report(arguments: argparse.Namespace) -> None:
    from p5jax.reports.study_report import write_report

    print(write_report(arguments.folder))


def _predict(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from p5jax.jobs.predict import predict_from_gin
    from p5jax.parallel import runtime

    a = arguments
    with runtime.session():
        text = predict_from_gin(
            *(a.folder, a.attribute, a.out, a.mode, a.seed),
            *(a.gin_file or ["ppr/predict.gin"], overrides),
        )
    _print(text)


def _print_rows(table: Any, reference: str) -> None:
    from p5jax.ppr.cold.results import format_rows, summarise

    _print(format_rows(summarise(table, reference)))


def _print(text: str) -> None:
    from p5jax.parallel import distributed

    if distributed.is_primary():
        print(text)


def _recommend(arguments: argparse.Namespace) -> None:
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
        print(f"{place:3}  {item.score:9.4f}  {item.item}  {item.title or ''}".rstrip())


def _soft(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from p5jax.jobs.tune import soft_from_gin
    from p5jax.parallel import runtime

    with runtime.session():
        soft_from_gin(arguments.gin_file, overrides)


def _compare(arguments: argparse.Namespace) -> None:
    from p5jax.evaluation.results import LEAKY_NOTE
    from p5jax.ppr.soft.comparison import compare_prompts
    from p5jax.triggers.evaluation import format_comparison

    a = arguments
    with opened(a) as run:
        rows = compare_prompts(run, a.soft, a.triggers, a.split, a.limit)
    if run.dataset.leaky:
        _print(LEAKY_NOTE)
    _print(format_comparison(rows))


def _evaluate_tuned(arguments: argparse.Namespace) -> None:
    from p5jax.evaluation.results import LEAKY_NOTE
    from p5jax.jobs.tune import evaluate_tuned
    from p5jax.parallel import runtime
    from p5jax.parallel.partitioning import MeshConfig
    from p5jax.ppr.cold.results import summarise

    mesh = MeshConfig(model=arguments.model_parallel)
    with runtime.session():
        found = evaluate_tuned(arguments.folder, arguments.tuned, mesh)
    if arguments.json:
        rows = summarise(found.table, found.reference)
        print_json({"leaky_item_ids": found.dataset.leaky, "rows": [asdict(row) for row in rows]})
        return
    if found.dataset.leaky:
        _print(LEAKY_NOTE)
    _print_rows(found.table, found.reference)


def _evaluate(arguments: argparse.Namespace) -> None:
    if arguments.tuned:
        if arguments.split != "test":
            raise UserError("--split validation: tuned models are evaluated on test users alone")
        _evaluate_tuned(arguments)
        return
    from p5jax.parallel import runtime
    from p5jax.parallel.partitioning import MeshConfig, make_mesh
    from p5jax.ppr.backbone.run import PprRun

    with runtime.session():
        mesh = make_mesh(MeshConfig(model=arguments.model_parallel))
        run = PprRun.load(arguments.folder, mesh)
        results = run.evaluate(arguments.split)
    print_results(results, run.dataset.leaky, arguments.json)
