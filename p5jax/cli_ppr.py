"""The commands `p5jax ppr …`: soft prefix prompts from user profiles, and their backbones."""

from __future__ import annotations

import argparse
from typing import Any

from p5jax.cli_data import print_json
from p5jax.cli_mesh import add_mesh


def add(commands: Any, command: Any) -> None:
    """Add the commands below `p5jax ppr`; `command` makes one."""
    pretrain = command(
        "pretrain", _pretrain, "train a backbone from a gin file (--gin.NAME=VALUE)", commands
    )
    pretrain.add_argument("--gin_file", action="append", required=True, metavar="FILE")

    evaluate = command(
        "evaluate", _evaluate, "a backbone's ranking of the catalogue beside baselines", commands
    )
    evaluate.add_argument("folder", metavar="RUN")
    evaluate.add_argument("--split", default="test", choices=("validation", "test"))
    evaluate.add_argument("--json", action="store_true")
    add_mesh(evaluate)


def _pretrain(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from p5jax import runtime
    from p5jax.pretrain import pretrain_from_gin

    with runtime.session():
        return pretrain_from_gin(arguments.gin_file, overrides)


def _evaluate(arguments: argparse.Namespace) -> None:
    from p5jax import runtime
    from p5jax.evaluation.results import LEAKY_NOTE, format_results, summary
    from p5jax.ppr.run import PprRun
    from p5jax.training import distributed
    from p5jax.training.partitioning import MeshConfig, make_mesh

    with runtime.session():
        mesh = make_mesh(MeshConfig(model=arguments.model_parallel))
        run = PprRun.load(arguments.folder, mesh)
        results = run.evaluate(arguments.split)
    if not distributed.is_primary():
        return
    if arguments.json:
        print_json({"leaky_item_ids": run.dataset.leaky, "results": summary(results)})
        return
    if run.dataset.leaky:
        print(LEAKY_NOTE)
    print(format_results(results))
