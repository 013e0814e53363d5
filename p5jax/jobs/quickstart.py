"""The whole job on the embedded synthetic world: prepare, audit, train, evaluate, report."""

from __future__ import annotations

import os
import time
from pathlib import Path

from p5jax.core.errors import UserError
from p5jax.data.building import build_dataset
from p5jax.data.dataset import Dataset
from p5jax.data.readers.synthetic import synthetic_raw
from p5jax.evaluation.audit import audit, format_audit
from p5jax.evaluation.results import format_results
from p5jax.jobs.evaluate import evaluate
from p5jax.jobs.train import train
from p5jax.reports.run_report import write_report


def quickstart(out: str | os.PathLike[str]) -> None:
    """Run every step into `out`, the dataset beside it.

    A quickstart that was interrupted resumes; one that finished is evaluated again.
    """
    started = time.monotonic()
    run_dir = Path(out).absolute()
    dataset_dir = run_dir.with_name(f"{run_dir.name}-data")
    if run_dir.is_file():
        raise UserError(f"{run_dir}: is a file, expected a folder to write to")

    def step(number: int, text: str) -> None:
        print(f"\n[{number}/4 {time.monotonic() - started:4.0f} s] {text}", flush=True)

    step(1, f"prepare and audit the synthetic world in {dataset_dir}")
    if not (dataset_dir / "manifest.json").is_file():
        build_dataset(
            synthetic_raw(users=200, items=100, events=(8, 16)), dataset_dir, scheme="token", seed=0
        )
    dataset = Dataset.load(dataset_dir)
    audited = audit(dataset)
    print(format_audit(audited))
    if audited["leaks"]:
        raise UserError(f"{dataset_dir}: {audited['leaks'][0]}")

    step(2, f"train into {run_dir}")
    train("runs/quickstart.gin", DATASET=dataset_dir, RUN_DIR=run_dir)

    step(3, "evaluate the five families on seen and unseen prompts")
    print(format_results(evaluate(run_dir)))

    step(4, "write the report")
    print(write_report(run_dir))
    print("\nNext: p5jax recommend", run_dir, "--user", dataset.user_keys[0])
