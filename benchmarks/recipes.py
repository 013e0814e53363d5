"""Processor time and memory of the training steps of recipes.

    python benchmarks/recipes.py FILE.gin=DATASET … [--steps 60]

For each recipe below gin/ and the dataset it is for, its own training is begun in a folder of its
own and given up after `--steps` steps. A step's time is the processor's, from the call until its
sums are there, mean over the steps of all shapes but the first of each, which compile; its memory
is the most that a shape needs beside parameters and optimizer state, by XLA's own analysis.
Prints a line of JSON a recipe: `samples` of a step and `targets`, tokens or items, that have a loss
in it, and the minutes of an epoch, in which every sample of all families, or user, comes once.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from hardware import available_cores, describe, warn_if_busy

from p5jax.core.config import find_gin_file
from p5jax.data.dataset import Dataset
from p5jax.jobs import pretrain, train
from p5jax.parallel.partitioning import logical_mesh
from p5jax.runs.run import Run
from p5jax.training import trainer
from p5jax.training.step import Steps


class Enough(Exception):
    """What gives a training up."""


class Measured(Steps):
    """Steps that note what each costs, and give up when there are enough of them."""

    wanted = 60

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.memory: dict[tuple[Any, ...], int] = {}
        self.costs: list[tuple[float, float, float]] = []  # s, samples, targets

    def update(self, state: Any, batches: Any, step: int) -> tuple[Any, dict[str, Any]]:
        (batch,) = batches
        shape = tuple(sorted((name, x.shape) for name, x in batch.items()))
        new = shape not in self.memory
        if new:
            with logical_mesh(self.mesh):
                compiled = self._fused.lower(state, batch, self._fold(step, 0)).compile()
            self.memory[shape] = compiled.memory_analysis().temp_size_in_bytes
        began = time.process_time()
        state, sums = jax.block_until_ready(super().update(state, batches, step))
        if not new:
            cost = time.process_time() - began
            self.costs.append((cost, float(sums["examples"]), float(sums["scored"])))
        if len(self.costs) >= self.wanted:
            raise Enough(self)
        return state, sums


def cost_of(file: Path, dataset: Path) -> dict[str, float]:
    """One recipe's figures."""
    backbone = "BackboneConfig" in file.read_text()
    start: Callable[..., Any] = pretrain.pretrain if backbone else train.train
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        try:
            start(file, DATASET=dataset, RUN_DIR=run_dir)
        except Enough as given_up:
            (steps,) = given_up.args
        else:
            raise SystemExit(f"{file}: found fewer steps than --steps, expected more")
        if backbone:
            epoch = Dataset.load(dataset).num_users
        else:
            epoch = sum(family.size("train") for family in Run.load(run_dir).families.values())
    seconds, samples, targets = np.mean(steps.costs, axis=0)
    return {
        "step_s": round(seconds, 3),
        "memory_mib": max(steps.memory.values()) // 2**20,
        "samples": round(samples, 1),
        "targets": round(targets, 1),
        "epoch_min": round(epoch / samples * seconds / 60, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+", metavar="FILE.gin=DATASET")
    parser.add_argument("--steps", type=int, default=Measured.wanted)
    chosen = parser.parse_args()
    print(describe(available_cores()), f"load {warn_if_busy():.1f}", sep="; ")
    Measured.wanted, trainer.Steps = chosen.steps, Measured
    for each in chosen.recipes:
        name, dataset = each.split("=", 1)
        found = cost_of(find_gin_file(name, below="results"), Path(dataset))
        print(json.dumps({"recipe": name, **found}), flush=True)


if __name__ == "__main__":
    main()
