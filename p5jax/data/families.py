"""The families of prompts: what each needs of a dataset, and what its prompts may say.

Imports nothing heavy, so that templates and the command line's help are quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

# The placeholders about an item, and about a user and an item: every family can fill these.
ITEM = frozenset({"item", "iid", "title", "brand", "price"})
ABOUT = ITEM | {"uid", "udesc", "trigger"}


class Needed(NamedTuple):
    """A column without which a family has no examples, and how it is called in an error."""

    table: str
    column: str
    words: str


@dataclass(frozen=True, kw_only=True)
class FamilyKind:
    """One family.

    family: "module:class" of its examples, a p5jax.prompts.family.Family. inputs, targets: the
    placeholders it can fill, in the inputs beside those about a user and an item. usual: seen
    prompts that an evaluation shows, one or two for each kind of answer. needs: what a dataset must
    have. asks_about: a yes/no prompt says at least one of these. writes: its answers are texts,
    which may be cut. among_candidates: a held-out pair is ranked among candidates, also where the
    prompt does not list them.
    """

    family: str
    inputs: frozenset[str] = frozenset()
    targets: frozenset[str]
    usual: tuple[str, ...] = ()
    needs: Needed | None = None
    asks_about: frozenset[str] = ITEM
    writes: bool = False
    among_candidates: bool = False


# In P5's order.
FAMILIES: Mapping[str, FamilyKind] = {
    "rating": FamilyKind(
        family="p5jax.prompts.records:Rating",
        inputs=frozenset({"star", "gave", "got"}),
        targets=frozenset({"rating", "yes_no", "like"}),
        usual=("R-1", "1-6", "1-10"),
        needs=Needed("interactions", "rating", "ratings"),
        asks_about=frozenset({"star"}),
    ),
    "sequential": FamilyKind(
        family="p5jax.prompts.users:Sequential",
        inputs=frozenset({"hist", "cand"}),
        targets=frozenset({"item", "list", "yes_no"}),
        usual=("L-1", "2-3", "2-13"),
    ),
    "explanation": FamilyKind(
        family="p5jax.prompts.records:Explanation",
        inputs=frozenset({"star", "feature", "headline"}),
        targets=frozenset({"rating", "like", "feature", "explanation"}),
        usual=("3-3", "3-12"),
        needs=Needed("reviews", "sentence", "explanation sentences"),
        writes=True,
    ),
    "review": FamilyKind(
        family="p5jax.prompts.records:Review",
        inputs=frozenset({"star", "feature", "headline", "review"}),
        targets=frozenset({"rating", "like", "headline"}),
        usual=("4-1", "4-2", "4-4"),
        needs=Needed("reviews", "text", "texts"),
        writes=True,
    ),
    "direct": FamilyKind(
        family="p5jax.prompts.users:Direct",
        inputs=frozenset({"hist", "cand"}),
        targets=frozenset({"item", "told", "yes_no"}),
        usual=("D-1", "D-2", "5-1", "5-4", "5-5", "5-8"),
        among_candidates=True,
    ),
}
