"""Recommendations of a tuned model, for a user of the dataset or for a profile only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from p5jax.core.errors import UserError, nearest
from p5jax.data.dataset import Key
from p5jax.ppr.backbone.sequences import right_aligned
from p5jax.ppr.tuned import Tuned


@dataclass(frozen=True)
class Scored:
    """A recommended item: its key and title in the source, and its score."""

    item: str
    title: str | None
    score: float


def recommend(
    tuned: Tuned, *, user: Key | None = None, profile: Mapping[str, str] | None = None, k: int = 10
) -> list[Scored]:
    """Return the k items of the best scores, best first, without the user's history.

    user: a key of the dataset, whose history and profile are used; attributes of `profile` replace
    the user's own. Without a user, the profile is that of one without a history (zero-shot), and
    attributes that are not given are unknown. UserError for an unknown user, attribute or category,
    and when neither is given.
    """
    dataset = tuned.backbone.dataset
    if user is None and not profile:
        raise UserError("recommend: found neither a user nor a profile, expected one")
    if not 1 <= k <= dataset.num_items:
        raise UserError(
            f"k: found {k}, expected 1 to {dataset.num_items}, the size of the catalogue"
        )
    history = np.zeros(0, np.int64)
    features = np.zeros_like(tuned.features[0])
    if user is not None:
        index = dataset.user_index(user)
        history, features = dataset.sequence(index), tuned.features[index].copy()
    for name, value in (profile or {}).items():
        column, code = _code(tuned, name, value)
        features[column] = code
    width = tuned.model.backbone_config.max_history
    items = right_aligned([history], width)
    scores = tuned.scorer.scores(features[None], items)[0].astype(np.float64)
    scores[history] = -np.inf
    best = np.argsort(-scores, kind="stable")[:k]
    return [
        Scored(dataset.item_keys[item], dataset.titles[item], float(scores[item]))
        for item in best.tolist()
        if np.isfinite(scores[item])
    ]


def parse_profile(words: Sequence[str]) -> dict[str, str]:
    """Read NAME=VALUE words; UserError for any other form, and for a name given twice."""
    profile: dict[str, str] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not name or not sign or not value:
            raise UserError(f"profile: found {word!r}, expected NAME=VALUE, such as age=25")
        if name in profile:
            raise UserError(f"profile: found {name} twice, expected one value")
        profile[name] = value
    return profile


def _code(tuned: Tuned, name: str, value: str) -> tuple[int, int]:
    """The column and the code of an attribute's value."""
    if tuned.schema is None:
        raise UserError(f"{tuned.path}: its profiles are vectors, expected a user and no {name!r}")
    attributes = {attribute.name: attribute for attribute in tuned.schema.attributes}
    if name not in attributes:
        raise UserError(
            f"profile {name!r}: expected one of {', '.join(attributes)}{nearest(name, attributes)}"
        )
    attribute = attributes[name]
    code = int(attribute.codes([value])[0])
    if not code:
        known = attribute.categories
        expected = f"one of {', '.join(known)}{nearest(value, known)}" if known else "a number"
        raise UserError(f"profile {name}={value}: expected {expected}")
    return list(attributes).index(name), code
