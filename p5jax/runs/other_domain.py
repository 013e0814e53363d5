"""A run that is asked about another domain: items it has never seen, and users it knows."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from p5jax.core.errors import UserError, nearest
from p5jax.data.dataset import Dataset
from p5jax.data.families import FAMILIES
from p5jax.data.shared_users import with_users_of
from p5jax.prompts.families import Family, make_families
from p5jax.runs.run import Run

# What a prompt says of items by their ids, which a model knows of its own dataset alone.
_IDS = {"item", "iid", "hist", "cand", "got"}


def asked_about(run: Run, dataset: Dataset) -> Run:
    """Return a run's model with another dataset's records, of users that are in both by their keys.

    Its families are those of one sample a record, with the prompts that say no item's id. UserError
    when no user is in both, or the dataset feeds none of these families.
    """
    if dataset.fingerprint == run.dataset.fingerprint:
        raise UserError(f"{dataset.path}: found the run's own dataset, expected another one")
    by_record = [name for name in run.manifest["families"] if FAMILIES[name].needs]
    names = [name for name in by_record if name in dataset.families]
    if not names:
        raise UserError(
            f"{dataset.path}: feeds {', '.join(dataset.families)}, expected one of the run's"
            f" families that ask about a record: {', '.join(by_record) or 'it has none'}"
        )
    shared = with_users_of(dataset, run.dataset)
    other = Run(run.path, run.manifest, shared, run.vocabulary, run.mesh, run.step)
    made = make_families(shared, run.templates, run.vocabulary, run.family_config, names)
    other.__dict__ |= {"families": {name: _without_ids(f) for name, f in made.items()}}
    other.__dict__["params"] = run.params
    return other


def _without_ids(family: Family) -> Family:
    """The same family with only the prompts that say no item's id."""
    found = copy.copy(family)
    found.templates = {
        id: template
        for id, template in family.templates.items()
        if _IDS.isdisjoint(template.fields + template.target_fields)
    }
    return found


def zero_shot_prompts(
    run: Run, split: str, families: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return the zero-shot prompts of a run that have examples; UserError when there is none."""
    for name in families or ():
        if name not in run.families:
            raise UserError(
                f"families: found {name!r}, expected some of {', '.join(run.families)}"
                f"{nearest(name, run.families)}"
            )
    found = [
        id
        for name, family in run.families.items()
        if families is None or name in families
        for id, template in family.templates.items()
        if template.zero_shot and family.size(split, id)
    ]
    if not found:
        raise UserError(
            f"{run.dataset.path}: no {split} record has all that a zero-shot prompt needs, such as"
            " a title, of a user that the run knows"
        )
    return tuple(found)
