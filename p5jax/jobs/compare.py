"""One comparison of two evaluated runs."""

from __future__ import annotations

from p5jax.evaluation.compare import Difference, compare_runs
from p5jax.jobs.start import PathName
from p5jax.runs.run import Run


def compare(run_a: Run | PathName, run_b: Run | PathName, split: str = "test") -> list[Difference]:
    """Compare two runs on the same examples, by a paired bootstrap over users.

    Reads what `evaluate` wrote for the split. Returns one Difference, b minus a, with its 95 %
    interval and p-value, for each metric of each prompt that both were evaluated with. UserError
    when one is not evaluated, they have no prompt in common, or the examples differ.
    """
    return compare_runs(_folder(run_a), _folder(run_b), split)


def _folder(run: Run | PathName) -> PathName:
    return run.path if isinstance(run, Run) else run
