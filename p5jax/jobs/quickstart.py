"""The whole job on the embedded synthetic world: the recipe `quickstart`, and a report."""

from __future__ import annotations

from p5jax.evaluation.recipe import format_figures
from p5jax.evaluation.results import format_results
from p5jax.jobs.reproduce import reproduce
from p5jax.jobs.start import PathName
from p5jax.reports.run_report import write_report


def quickstart(out: PathName) -> None:
    """Prepare, audit, train, evaluate and report into `out`, the dataset beside it.

    A quickstart that was interrupted resumes; one that finished is evaluated again.
    """
    found = reproduce("quickstart", out=out)
    print(format_results(found.results))
    print(f"\n{format_figures(found.figures)}\n")
    print(write_report(found.run.path))
    print("\nNext: p5jax recommend", found.run.path, "--user", found.run.dataset.user_keys[0])
