"""What a training left in its folder, and a signal that stops one."""

from __future__ import annotations

import contextlib
import json
import signal
from unittest import mock

from p5jax.pipeline.epochs import EpochIterator
from p5jax.training.checkpoints import Checkpoints, restore_params
from p5jax.training.writers import METRICS_FILE


def last_params(folder):
    """The parameters of the last step, as host arrays would be restored."""
    return restore_params(folder / "checkpoints", which="latest")


def last_progress(folder):
    """What the last checkpoint says of the training: its best step and last metrics."""
    with Checkpoints(folder / "checkpoints") as checkpoints:
        return checkpoints.progress(checkpoints.steps()[-1])


def last_metrics(folder):
    """The last record of each metric."""
    records = [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]
    return {name: value for record in records for name, value in record.items()}


@contextlib.contextmanager
def stopped_at(step):
    """Within it, SIGTERM comes while a training reads the batch of this step."""
    following, batches = EpochIterator.__next__, iter(range(1, step + 1))

    def interrupted(self):
        if next(batches, None) == step:
            signal.raise_signal(signal.SIGTERM)
        return following(self)

    with mock.patch.object(EpochIterator, "__next__", interrupted):
        yield
