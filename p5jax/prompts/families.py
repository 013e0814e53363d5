"""The families of a dataset: those of the table that its data and the templates support."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pkgutil import resolve_name

import numpy as np

from p5jax.core.errors import UserError
from p5jax.data.dataset import Dataset
from p5jax.data.families import FAMILIES
from p5jax.prompts.family import Example, ExampleSource, Family, FamilyConfig
from p5jax.prompts.sampling import example_rng
from p5jax.prompts.template import PromptTemplate, TextEncoder
from p5jax.prompts.users import UserFamily

__all__ = [
    "Example",
    "Family",
    "FamilyConfig",
    "UserFamily",
    "example_rng",
    "make_families",
]

_TRIES = 64


def make_families(
    dataset: Dataset,
    templates: Mapping[str, PromptTemplate],
    vocabulary: TextEncoder,
    config: FamilyConfig,
    names: Iterable[str] | None = None,
    triggers: Sequence[str] = (),
) -> dict[str, Family]:
    """Return the families that the data and the templates support, in P5's order.

    triggers: each user's words for {trigger}, where a template has it. UserError when one of
    `names` is unknown or not supported.
    """
    source = ExampleSource(dataset, vocabulary, config, triggers)
    wanted = FAMILIES if names is None else tuple(names)
    for name in wanted:
        if name not in FAMILIES:
            raise UserError(f"families: found {name!r}, expected {', '.join(FAMILIES)}")
    families: dict[str, Family] = {}
    for name in (family for family in FAMILIES if family in wanted):
        cls: type[Family] = resolve_name(FAMILIES[name].family)
        lack = _lack(source, templates, name) or cls.lack(source)
        family = None if lack else cls(source, templates)
        if family is not None and family.size("train"):
            _try_candidate_lists(family)
            families[name] = family
        elif names is not None:
            raise UserError(
                f"families: {name} asked for, but {lack or 'no record fits its prompts'}"
            )
    return families


def _try_candidate_lists(family: Family) -> None:
    """Make a few examples of each prompt with candidates, so that lists that exceed the maximal
    source length are an error now and not hours into training."""
    tries = np.linspace(0, family.size("train") - 1, _TRIES).astype(int).tolist()
    for template in family.seen:
        if "cand" in template.fields:
            for index in tries:
                family.example("train", index, example_rng(0, 0, family.name, index), template.id)


def _lack(source: ExampleSource, templates: Mapping[str, PromptTemplate], name: str) -> str | None:
    """Return what is missing for a family to have training examples, or None."""
    if not any(t.family == name and t.seen for t in templates.values()):
        return "the templates have no seen prompt of it"
    needs = FAMILIES[name].needs
    if needs and name not in source.dataset.families:
        return f"the dataset {source.dataset.path} has no {needs.words}"
    return None
