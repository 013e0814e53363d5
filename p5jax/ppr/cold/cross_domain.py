"""Cross-domain profiles: what a user is like in one dataset, for a prompt in another.

The profile of a user who is cold in the target domain is the user's state in the source domain's
backbone (PPR, arXiv 2205.09666, Section 4.6). Two datasets share the users whose keys are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np

from p5jax.core.errors import UserError
from p5jax.data.dataset import Dataset
from p5jax.models.initial import Params
from p5jax.parallel.placing import place_rows, to_host
from p5jax.ppr.backbone.model import Backbone
from p5jax.ppr.backbone.sequences import right_aligned
from p5jax.ppr.cold.protocol import ColdStart, ColdStartConfig, cold_start

BATCH_SIZE = 256
States = Callable[[np.ndarray], np.ndarray]  # items int32 [N, S], right-aligned -> [N, D]


def user_states(model: Backbone, params: Params) -> States:
    """Return the function from histories int32 [N, S] to their states [N, D] in a backbone."""
    apply = jax.jit(partial(model.apply, method="user_state"))

    def states(items_NxS: np.ndarray) -> np.ndarray:
        rows = place_rows(params, items_NxS)
        found: np.ndarray = to_host(apply({"params": params}, rows))
        return found[: len(items_NxS)]

    return states


@dataclass(frozen=True)
class VectorProfiles:
    """Profiles of U users as vectors float32 [U, D]; zero where `present` [U] is false."""

    vectors: np.ndarray
    present: np.ndarray

    def standardised(self, users: np.ndarray) -> VectorProfiles:
        """Return the vectors with mean 0 and variance 1 in each element over `users`, the
        training users; those without a vector are left out, and stay at 0, the mean.

        UserError when fewer than two of them have a vector.
        """
        fitting = users[self.present[users]]
        if len(fitting) < 2:
            raise UserError(
                f"cross-domain profiles: found {len(fitting)} training users with a history in the "
                "source domain, expected at least 2"
            )
        mean, spread = self.vectors[fitting].mean(axis=0), self.vectors[fitting].std(axis=0)
        scaled = (self.vectors - mean) / np.where(spread > 0, spread, 1)
        vectors = np.where(self.present[:, None], scaled, 0).astype(np.float32)
        return VectorProfiles(vectors, self.present)


@dataclass(frozen=True)
class DomainPair:
    """Two datasets and the users in both: source_users[n] is target_users[n], [N] each."""

    source: Dataset
    target: Dataset
    source_users: np.ndarray
    target_users: np.ndarray

    @staticmethod
    def of(source: Dataset, target: Dataset) -> DomainPair:
        """Find the users whose keys are in both datasets.

        UserError when there are none, or when the datasets share an item: the source's backbone
        would know what the target asks for.
        """
        place = {key: user for user, key in enumerate(source.user_keys)}
        pairs = [(place[key], u) for u, key in enumerate(target.user_keys) if key in place]
        if not pairs:
            raise UserError(
                f"{source.path} and {target.path}: found no user key in both (e.g. "
                f"{source.user_keys[0]!r} and {target.user_keys[0]!r}), expected shared users"
            )
        items = sorted(set(source.item_keys) & set(target.item_keys))
        if items:
            raise UserError(
                f"{source.path} and {target.path}: found {len(items)} items in both (e.g."
                f" {items[0]!r}), expected domains without a common item"
            )
        shared = np.array(pairs, np.int32)
        return DomainPair(source, target, shared[:, 0], shared[:, 1])

    def cold_start(self, config: ColdStartConfig) -> ColdStart:
        """Return the protocol in the target domain, whose cold users are all shared users."""
        return cold_start(self.target, config, among=self.target_users)

    def histories(self) -> list[np.ndarray]:
        """Return each shared user's source items in time order."""
        return [self.source.sequence(user) for user in self.source_users.tolist()]

    def profiles(
        self,
        states: States,
        max_history: int,
        batch_size: int = BATCH_SIZE,
    ) -> VectorProfiles:
        """Return the target users' profiles: the source backbone's states of their histories.

        Args:
            states: of histories [batch_size, max_history], for example `user_states`; the last
                batch is filled up, so that one shape is compiled.
            max_history: how many of the last source items are read.
        """
        histories = self.histories()
        items = right_aligned(histories, max_history)
        parts = []
        for start in range(0, len(items), batch_size):
            chosen = np.minimum(np.arange(start, start + batch_size), len(items) - 1)
            kept = min(batch_size, len(items) - start)
            parts.append(np.asarray(states(items[chosen]), np.float32)[:kept])
        state_NxD = np.concatenate(parts)
        present = np.zeros(self.target.num_users, bool)
        present[self.target_users] = [len(history) > 0 for history in histories]
        vectors = np.zeros((self.target.num_users, state_NxD.shape[1]), np.float32)
        vectors[self.target_users] = state_NxD
        return VectorProfiles(np.where(present[:, None], vectors, 0), present)
