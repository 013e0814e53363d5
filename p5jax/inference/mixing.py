"""The model's probabilities of items mixed with those of something beside it.

Letters: B users, N found items, M items beside the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.settings import BELOW_ONE, PROPER_SHARE, at_least, check
from p5jax.inference.search import Found

RULES = ("mixture", "product")


@dataclass(frozen=True)
class Mixing:
    """How an item's log-probability is mixed with its share of what is beside the model.

    rule: `mixture` is log((1 - weight) p_model + weight p_beside) (Khandelwal et al. 2020,
    equation 3). `product`, of experts, is log p_model + weight log(p_beside + floor), of which
    the exponentials do not sum to 1.
    """

    rule: str = "product"
    weight: float = 0.5
    floor: float = 1e-3

    def __post_init__(self) -> None:
        check(self, rule=RULES, weight=at_least(0), floor=PROPER_SHARE)
        if self.rule == "mixture" and self.weight not in BELOW_ONE:
            raise UserError(
                f"Mixing.weight: found {self.weight:g} of a mixture, expected {BELOW_ONE}"
            )

    def scores(self, logp: np.ndarray, shares: np.ndarray | float) -> np.ndarray:
        """Return the mixed scores, float64, of log-probabilities and shares of one shape.

        They never fall when the log-probability rises, and rise by no more than it does: what
        rounding does to it, it does not do more to them.
        """
        logp = np.asarray(logp, np.float64)
        if self.rule == "product":
            product: np.ndarray = logp + self.weight * np.log(np.asarray(shares) + self.floor)
            return product
        with np.errstate(divide="ignore"):
            beside = np.log(self.weight * np.asarray(shares, np.float64))
        mixture: np.ndarray = np.logaddexp(np.log1p(-self.weight) + logp, beside)
        return mixture


class Beside(NamedTuple):
    """What stands beside the model: items [B, M], -1 for none, their shares [B, M], and the rule.

    A user's items are distinct; shares are of a probability that is 0 for all other items.
    """

    items: np.ndarray
    shares: np.ndarray
    mixing: Mixing

    def part(self, rows: np.ndarray) -> Beside:
        """Return it for some of the users."""
        return Beside(self.items[rows], self.shares[rows], self.mixing)


def mixed(found: Found, beside: Beside, logp: np.ndarray, num_items: int) -> Found:
    """Return what a search found together with the items beside the model, by mixed scores.

    found: its whole pool. logp [B, M]: of the items beside, -inf for one that may not be
    recommended. No other item's mixed score is above the new bound, since a score never falls when
    the log-probability rises. Of equals the item that comes first in the catalogue is first.
    """
    pooled, pooled_logp, bound = (np.asarray(leaf) for leaf in found)
    if np.isnan(pooled_logp).any() or np.isnan(bound).any():
        return found  # as no ranking takes
    rows = np.arange(len(pooled))[:, None]
    known = np.zeros((len(rows), num_items + 1), bool)
    known[rows, beside.items] = True  # -1 is the last column
    alone = np.where(known[rows, pooled], -np.inf, pooled_logp)
    items = np.concatenate([pooled, beside.items], axis=1)  # [B, N+M]
    scores = np.concatenate(
        [beside.mixing.scores(alone, 0.0), beside.mixing.scores(logp, beside.shares)], axis=1
    )
    allowed = np.concatenate([np.isfinite(alone), np.isfinite(logp)], axis=1)
    items, scores = np.where(allowed, items, -1), np.where(allowed, scores, -np.inf)
    order = np.lexsort((items, -scores), axis=1)
    items, scores = (np.take_along_axis(each, order, axis=1) for each in (items, scores))
    return Found(items, scores.astype(np.float32), beside.mixing.scores(bound, 0.0))
