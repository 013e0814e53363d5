"""The cold-start protocol: which users are cold, which of their events may be used, and the cases.

Warm users are for pre-training. Cold users are split into those for tuning and those for the test;
only a cold user's first few events are ever used. A case asks for one event of a user from the
events before it, among frozen negatives (PPR, arXiv 2205.09666, Section 4.1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.settings import PROPER_SHARE, SIZE, at_least, check
from p5jax.data.dataset import Dataset
from p5jax.ppr.backbone.sequences import right_aligned
from p5jax.prompts.sampling import draw_negatives, example_rng

SPLIT_KINDS = ("held_out", "few_events")
_GROUPS, _NEGATIVES = "cold-start groups", "cold-start negatives"  # names of random streams
_SHOTS = re.compile(r"([1-9]\d*)-shot")


@dataclass(frozen=True)
class ColdStartConfig:
    """Which users are cold, and how many negatives each target has.

    kind "held_out": a `share` of the users, sampled by the seed and cropped to their `first`
    events; "few_events": the users with fewer than `threshold` events, all of which are used. Of
    the cold users `train_share` are for tuning, the others for the test. k_shots: history lengths
    that are reported separately.
    """

    kind: str = "held_out"
    share: float = 0.2
    first: int = 10
    threshold: int = 10
    train_share: float = 0.8
    negatives: int = 99
    k_shots: tuple[int, ...] = (1, 5, 7)
    seed: int = 0

    def __post_init__(self) -> None:
        check(
            self,
            kind=SPLIT_KINDS,
            share=PROPER_SHARE,
            train_share=PROPER_SHARE,
            **dict.fromkeys(("first", "negatives", "k_shots"), SIZE),
            threshold=at_least(2),
        )


@dataclass(frozen=True)
class Cases:
    """N questions: which item comes next in a user's events?

    users: int32 [N]; items_NxS: int32, the events before the target as dataset item + 1, oldest
    first, right-aligned, 0 before them; targets: int32 [N] dataset items; candidates: int32
    [N, 1 + negatives] dataset items, column 0 the target.
    """

    users: np.ndarray
    items_NxS: np.ndarray
    targets: np.ndarray
    candidates: np.ndarray
    kind: str

    def __len__(self) -> int:
        return len(self.users)

    @property
    def lengths(self) -> np.ndarray:
        """How many events come before each target, [N]."""
        lengths: np.ndarray = np.count_nonzero(self.items_NxS, axis=1)
        return lengths

    def part(self, chosen: np.ndarray) -> Cases:
        """Return the cases of a mask or an index [K]."""
        columns = (self.users, self.items_NxS, self.targets, self.candidates)
        users, items, targets, candidates = (column[chosen] for column in columns)
        return Cases(users, items, targets, candidates, self.kind)


@dataclass(frozen=True)
class ColdStart:
    """The groups of users (sorted, int32) and the events of each that may be used.

    items, offsets: usable events in time order, user by user, dataset items [N] and [U + 1]; a
    warm user's are all. Those of test users may be used for their own cases only.
    """

    config: ColdStartConfig
    dataset: Dataset = field(repr=False)
    warm: np.ndarray
    train: np.ndarray
    test: np.ndarray
    items: np.ndarray = field(repr=False)
    offsets: np.ndarray = field(repr=False)

    @property
    def num_items(self) -> int:
        """The size of the catalogue."""
        return self.dataset.num_items

    @property
    def cold(self) -> np.ndarray:
        """The users that tune and those that test, sorted."""
        return np.union1d(self.train, self.test)

    @property
    def training_users(self) -> np.ndarray:
        """The users whose events training may see: warm ones and those that tune, sorted."""
        return np.union1d(self.warm, self.train)

    @property
    def longest(self) -> int:
        """The most events that can come before a target: the width of all cases."""
        return max(1, int(np.diff(self.offsets)[self.cold].max()) - 1)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of cases that at least one test user has."""
        events = np.diff(self.offsets)[self.test].max()
        shots = [f"{k}-shot" for k in self.config.k_shots if k < events]
        return ("zero-shot", "few-shot", "joint", *shots) if events > 1 else ("zero-shot",)

    def sequence(self, user: int) -> np.ndarray:
        """Return a user's usable events in time order, dataset items."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def counts(self, first: int | None = None) -> np.ndarray:
        """Return how often each item occurs in the events that training may see, [I], or in each
        user's `first` ones of them."""
        events = [self.sequence(user)[:first] for user in self.training_users.tolist()]
        return np.bincount(np.concatenate(events), minlength=self.num_items)

    def cases(self, kind: str, users: np.ndarray | None = None) -> Cases:
        """Return the cases of a kind of the test users, or of other cold users; user by user.

        zero-shot: the first event, from none; few-shot: each later one, from those before it;
        joint: both; k-shot: the event after the first k, from these. A case's negatives depend on
        the seed, the user and the event alone. UserError for an unknown kind.
        """
        chosen = self.test if users is None else users
        rows = [
            (user, position)
            for user in chosen.tolist()
            for position in np.flatnonzero(is_of_kind(kind, np.arange(len(self.sequence(user)))))
        ]
        items = right_aligned(
            [self.sequence(user)[:position] for user, position in rows], self.longest
        )
        candidates = np.zeros((len(rows), 1 + self.config.negatives), np.int32)
        for row, (user, position) in enumerate(rows):
            candidates[row, 0] = self.sequence(user)[position]
            candidates[row, 1:] = self._negatives(user, int(position))
        who = np.array([user for user, _ in rows], np.int32)
        return Cases(who, items, candidates[:, 0].copy(), candidates, kind)

    def _negatives(self, user: int, position: int) -> list[int]:
        """Sample items that the user never interacts with, before or after the crop."""
        own = set(self.dataset.sequence(user).tolist())
        count = self.config.negatives
        if self.num_items - len(own) < count:
            raise UserError(
                f"{self.dataset.path}: user {self.dataset.user_keys[user]} has {len(own)} of "
                f"{self.num_items} items, expected {count} others (ColdStartConfig.negatives)"
            )
        rng = example_rng(self.config.seed, position, _NEGATIVES, user)
        return draw_negatives(rng, self.num_items, own, count)


def is_of_kind(kind: str, lengths: np.ndarray) -> np.ndarray:
    """Return which cases [N] are of a kind, from the number of events before their targets [N]."""
    shots = _SHOTS.fullmatch(kind)
    if kind == "joint":
        chosen = np.ones(len(lengths), bool)
    elif kind == "zero-shot":
        chosen = lengths == 0
    elif kind == "few-shot":
        chosen = lengths > 0
    elif shots:
        chosen = lengths == int(shots[1])
    else:
        raise UserError(f"kind: found {kind!r}, expected zero-shot, few-shot, joint or K-shot")
    return chosen


def cold_start(
    dataset: Dataset, config: ColdStartConfig, among: np.ndarray | None = None
) -> ColdStart:
    """Split a dataset's users by the protocol; the cold ones are users of `among`, if given.

    UserError when there are too few cold users to split, or no warm one is left.
    """
    possible = np.arange(dataset.num_users) if among is None else np.unique(among)
    rng = example_rng(config.seed, 0, _GROUPS, 0)
    events = np.diff(dataset.offsets)
    if config.kind == "held_out":
        number = round(config.share * len(possible))
        cold = rng.permutation(possible)[:number]
        usable = np.minimum(events, config.first)
        expected = f"{config.share:.0%} of {len(possible)}"
    else:
        cold = rng.permutation(possible[events[possible] < config.threshold])
        usable = events
        expected = f"of {len(possible)} those with fewer than {config.threshold} events"
    tuning = round(config.train_share * len(cold))
    if not 0 < tuning < len(cold) or len(cold) == dataset.num_users:
        raise UserError(
            f"{dataset.path}: found {len(cold)} cold users ({expected}) of {dataset.num_users}; "
            "expected at least one each to tune, to test and to be warm (ColdStartConfig)"
        )
    is_cold = np.zeros(dataset.num_users, bool)
    is_cold[cold] = True
    lengths = np.where(is_cold, usable, events)
    kept = _before(lengths, dataset.offsets)
    warm, train, test = (
        np.sort(group).astype(np.int32)
        for group in (np.flatnonzero(~is_cold), cold[:tuning], cold[tuning:])
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return ColdStart(config, dataset, warm, train, test, dataset.sequence_items[kept], offsets)


def _before(lengths: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Mask [N] of the first `lengths` [U] rows of each user."""
    events = np.diff(offsets)
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], events)
    kept: np.ndarray = position < np.repeat(lengths, events)
    return kept
