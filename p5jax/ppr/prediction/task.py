"""Profile prediction: one attribute from the others and the behaviour (PPR, section 4.7).

The classes are the attribute's categories. The training users are the protocol's warm and tuning
users; the test users' labels are only compared with the predictions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from sklearn.metrics import accuracy_score, f1_score

from p5jax.core.errors import UserError
from p5jax.evaluation.compare import RESAMPLES
from p5jax.evaluation.intervals import Interval, interval_and_p_value, resampled_means
from p5jax.ppr.backbone.sequences import right_aligned
from p5jax.ppr.cold.protocol import ColdStart
from p5jax.ppr.profiles import Profiles

MAJORITY = "majority"
PREDICTION_METRICS = ("accuracy", "macro-F1")


@dataclass(frozen=True)
class PredictionTask:
    """The prediction of one attribute of U users.

    others: the profiles without it; items_UxS: int32, each user's first usable events, at most as
    many as a cold user has, item + 1, right-aligned; labels: int32 [U], 0 … classes - 1, -1 where
    unknown. train, test: users with a known label.
    """

    attribute: str
    classes: int
    others: Profiles
    items_UxS: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    test: np.ndarray
    seed: int

    @property
    def majority(self) -> int:
        """The class that most training users have."""
        return int(np.bincount(self.labels[self.train], minlength=self.classes).argmax())


def prediction_task(split: ColdStart, profiles: Profiles, attribute: str) -> PredictionTask:
    """Make the task of predicting `attribute`, from profiles fitted on the training users.

    UserError when there is no such attribute, no other one, or no test user whose value is known.
    """
    others = profiles.without(attribute)
    column = profiles.index(attribute)
    if not others.names:
        raise UserError(
            f"profile prediction: found no attribute but {attribute!r}, expected another to prompt "
            "with"
        )
    labels = profiles.codes_UxM[:, column] - 1
    known = [users[labels[users] >= 0] for users in (split.training_users, split.test)]
    for what, users in zip(("training", "test"), known, strict=True):
        if not len(users):
            raise UserError(
                f"profile prediction: found no {what} user whose {attribute!r} is known"
            )
    events = split.longest + 1
    users = range(split.dataset.num_users)
    return PredictionTask(
        attribute=attribute,
        classes=profiles.sizes[column] - 1,
        others=others,
        items_UxS=right_aligned([split.sequence(user)[:events] for user in users], events),
        labels=labels.astype(np.int32),
        train=known[0],
        test=known[1],
        seed=split.config.seed,
    )


def prediction_table(task: PredictionTask, predicted: np.ndarray) -> pa.Table:
    """Return a row per test user: seed, user, label, predicted class [test users] and majority."""
    count = len(task.test)
    return pa.table(
        {
            "seed": pa.array(np.full(count, task.seed, np.int64)),
            "user": pa.array(task.test, pa.int32()),
            "label": pa.array(task.labels[task.test], pa.int32()),
            "predicted": pa.array(predicted, pa.int32()),
            MAJORITY: pa.array(np.full(count, task.majority, np.int32)),
        }
    )


def prediction_metrics(table: pa.Table, *, seed: int = 0) -> dict[str, dict[str, Interval]]:
    """Return accuracy and macro-F1 of "predicted", of "majority" and of their "difference".

    The table may be several seeds' concatenated. The 95 % intervals are bootstraps over users, the
    same resamples for all three; macro-F1 averages over the classes that test users have.
    """
    label = table["label"].to_numpy()
    classes = np.unique(label)
    columns = {name: table[name].to_numpy() for name in ("predicted", MAJORITY)}
    values = {
        name: np.array(
            [
                accuracy_score(label, found),
                f1_score(label, found, labels=classes, average="macro", zero_division=0),
            ]
        )
        for name, found in columns.items()
    }
    counts = [_user_counts(table, label, found, classes) for found in columns.values()]
    means = resampled_means(np.concatenate(counts, axis=1), resamples=RESAMPLES, seed=seed)
    halves = np.split(means, 2, axis=1)
    drawn = {name: _from_counts(half) for name, half in zip(columns, halves, strict=True)}
    for each in (values, drawn):
        each["difference"] = each["predicted"] - each[MAJORITY]
    return {
        name: {
            metric: (float(values[name][m]), *interval_and_p_value(drawn[name][:, m])[:2])
            for m, metric in enumerate(PREDICTION_METRICS)
        }
        for name in values
    }


def _user_counts(
    table: pa.Table, label: np.ndarray, found: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Counts of each user [users, 2 + 2 * classes], from which _from_counts makes the metrics.

    They are the number of rows, of hits and, per class, of hits and of rows that have it plus rows
    predicted to have it.
    """
    true, taken = label[:, None] == classes, found[:, None] == classes
    hits = (label == found)[:, None]
    rows = np.concatenate([np.ones_like(hits), hits, true & taken], axis=1).astype(np.float64)
    rows = np.concatenate([rows, true.astype(np.float64) + taken], axis=1)
    users, row = np.unique(table["user"].to_numpy(), return_inverse=True)
    counts = np.zeros((len(users), rows.shape[1]))
    np.add.at(counts, row, rows)
    return counts


def _from_counts(counts_RxF: np.ndarray) -> np.ndarray:
    """Accuracy and macro-F1, [R, 2]; F1 is 2 hits / (true + taken), 0 where there is neither."""
    rows, hits = counts_RxF[:, 0], counts_RxF[:, 1]
    true_positives, both = np.split(counts_RxF[:, 2:], 2, axis=1)
    f1 = 2 * true_positives / np.where(both > 0, both, 1)
    return np.stack([hits / rows, f1.mean(axis=1)], axis=1)


def format_prediction(attribute: str, table: pa.Table) -> str:
    """The metrics as text, with n and the ends of the 95 % intervals."""
    users = len(np.unique(table["user"].to_numpy()))
    classes = len(np.unique(table["label"].to_numpy()))
    lines = [f"{attribute}: {classes} classes among {users} test users"]
    for kind, metrics in prediction_metrics(table).items():
        cells = [f"{n} {v:.4f} [{low:.4f}, {high:.4f}]" for n, (v, low, high) in metrics.items()]
        lines.append(f"  {kind:<10}  " + "  ".join(cells))
    return "\n".join(lines)
