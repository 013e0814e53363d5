"""Leak checks of the cold-start protocol, in addition to those of the dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from p5jax.data.dataset import Dataset
from p5jax.data.leaks import leak_line
from p5jax.ppr.cold.protocol import Cases, ColdStart


def find_cold_leaks(
    split: ColdStart, tuning: Sequence[Cases] = (), testing: Sequence[Cases] = ()
) -> list[str]:
    """Return a line for each way in which test users reach training; none when there is no leak.

    Everything is looked up in the dataset again: which group each user is in, which events may be
    used, and for the cases of tuning and testing their users, histories and candidates.
    """
    lines = _group_leaks(split) + _crop_leaks(split)
    held = _pairs(split.dataset, split.test, split.dataset.sequence)
    seen = [_pairs(split.dataset, split.training_users, split.sequence)]
    seen += [_case_pairs(split.dataset, cases) for cases in tuning]
    both = np.intersect1d(held, np.concatenate(seen))
    lines += leak_line(split.dataset, both, "events of test users are also training's")
    for what, users, group in (("tune", split.train, tuning), ("test", split.test, testing)):
        for cases in group:
            foreign = np.setdiff1d(cases.users, users)
            if len(foreign):
                key = split.dataset.user_keys[foreign[0]]
                lines.append(
                    f"{len(foreign)} users of {cases.kind} cases that {what} are of another "
                    f"group, e.g. user {key}"
                )
            lines += _case_leaks(split, cases)
    return lines


def _group_leaks(split: ColdStart) -> list[str]:
    members = np.concatenate([split.warm, split.train, split.test])
    times = np.bincount(members, minlength=split.dataset.num_users)
    wrong = np.flatnonzero(times != 1)
    if not len(wrong):
        return []
    key = split.dataset.user_keys[wrong[0]]
    return [
        f"{len(wrong)} users are not in exactly one of the warm, tuning and test groups, "
        f"e.g. user {key} is in {times[wrong[0]]}"
    ]


def _crop_leaks(split: ColdStart) -> list[str]:
    """Users of whom more, or other, events can be used than the protocol says."""
    config, dataset = split.config, split.dataset
    cold = set(split.cold.tolist())
    wrong = []
    for user in range(dataset.num_users):
        whole = dataset.sequence(user)
        if user not in cold:
            allowed = whole
        elif config.kind == "held_out":
            allowed = whole[: config.first]
        else:
            allowed = whole if len(whole) < config.threshold else whole[:0]
        if not np.array_equal(split.sequence(user), allowed):
            wrong.append(user)
    if not wrong:
        return []
    return [
        f"{len(wrong)} users have other usable events than {config.kind} allows, "
        f"e.g. user {dataset.user_keys[wrong[0]]}"
    ]


def _case_leaks(split: ColdStart, cases: Cases) -> list[str]:
    """Cases that know what comes after their target, or rank what the user has."""
    dataset = split.dataset
    lines = []
    wrong = np.flatnonzero(~_follows_history(dataset, cases))
    if len(wrong):
        key = dataset.user_keys[cases.users[wrong[0]]]
        lines.append(
            f"{len(wrong)} {cases.kind} cases do not ask for the event that follows their history,"
            f" e.g. of user {key}"
        )
    if (cases.candidates[:, 0] != cases.targets).any():
        lines.append(f"{cases.kind}: the first candidate is not the target")
    negatives = cases.users[:, None].astype(np.int64) * dataset.num_items + cases.candidates[:, 1:]
    own = _pairs(dataset, np.unique(cases.users), dataset.sequence)
    lines += leak_line(
        dataset, np.intersect1d(negatives, own), "negatives are events of their user"
    )
    ordered = np.sort(cases.candidates, axis=1)
    repeated = (np.diff(ordered, axis=1) == 0).any(axis=1)
    if repeated.any():
        lines.append(f"{repeated.sum()} {cases.kind} cases have a candidate twice")
    return lines


def _follows_history(dataset: Dataset, cases: Cases) -> np.ndarray:
    """Which cases [N] show exactly their user's first events and ask for the one after them."""
    first, end = dataset.offsets[cases.users], dataset.offsets[cases.users + 1]
    width = cases.items_NxS.shape[1]
    position = np.arange(width) - width + cases.lengths[:, None]  # of the event; < 0: padding
    last_row = len(dataset.sequence_items) - 1
    rows = np.clip(first[:, None] + position, 0, last_row)
    shown = np.where(position >= 0, dataset.sequence_items[rows] + 1, 0)
    asked = first + cases.lengths
    target = dataset.sequence_items[np.minimum(asked, last_row)]
    right: np.ndarray = (asked < end) & (target == cases.targets)
    right &= (shown == cases.items_NxS).all(axis=1)
    return right


def _pairs(
    dataset: Dataset, users: np.ndarray, sequence: Callable[[int], np.ndarray]
) -> np.ndarray:
    """One number per (user, item) event of some users."""
    pairs = [user * dataset.num_items + sequence(user).astype(np.int64) for user in users.tolist()]
    return np.concatenate(pairs) if pairs else np.zeros(0, np.int64)


def _case_pairs(dataset: Dataset, cases: Cases) -> np.ndarray:
    """One number per (user, item) event that cases show or ask for."""
    users = cases.users.astype(np.int64)[:, None] * dataset.num_items
    shown = (users + cases.items_NxS - 1)[cases.items_NxS > 0]
    return np.concatenate([shown, users[:, 0] + cases.targets])
