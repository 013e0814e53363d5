"""One audit of a dataset."""

from __future__ import annotations

from typing import Any

from p5jax.data.dataset import Dataset
from p5jax.evaluation import audit as audits
from p5jax.jobs.start import PathName
from p5jax.ppr.fitted import FITTED


def audit(dataset: Dataset | PathName) -> dict[str, Any]:
    """Check a dataset, or the one in a folder, for leaks, and measure the baselines.

    Returns a JSON-able dict, see evaluation.audit.audit. "leaks" is empty when the dataset is
    sound. UserError for a folder that is no dataset.
    """
    found = dataset if isinstance(dataset, Dataset) else Dataset.load(dataset)
    return audits.audit(found, more=FITTED)
