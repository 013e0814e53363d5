"""Which prompts are evaluated, and on what examples."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from p5jax.core.errors import UserError, nearest
from p5jax.core.progress import Report
from p5jax.data.families import FAMILIES
from p5jax.evaluation.settings import EvaluationConfig
from p5jax.evaluation.task import RunLike, Task, chosen_indices, kind_of
from p5jax.prompts.families import Family

LENDER = "sequential"  # whose prompts for an item also rank the candidates of other families


def prompt_task(
    run: RunLike,
    family: str,
    prompt_id: str,
    split: str,
    limit: int | None,
    config: EvaluationConfig,
    report: Report,
) -> Task:
    """A prompt asked about a family, and at most `limit` of its examples, the same for every run.

    UserError when the run lacks the family or the prompt, and when no record can fill it.
    """
    lent = prompt_id in _lent(run, family)
    if family not in run.families and not lent:
        raise UserError(
            f"families: {family!r} is not in this run, which has {', '.join(run.families)}"
        )
    examples_of = run.families[LENDER if lent else family]
    template = examples_of.template(prompt_id)
    size = examples_of.size(split, prompt_id)
    if not size:
        raise UserError(f"prompt {prompt_id}: no {split} record has all that it needs")
    if not lent and kind_of(template) == "yes_no":
        limit = config.yes_no_users if limit is None else min(limit, config.yes_no_users)
    indices = chosen_indices(size, limit, config.seed)
    candidates_of = family if lent else ""
    return Task(
        *(run, examples_of, template, split, indices, config, report), candidates_of=candidates_of
    )


def together(tasks: Sequence[Task]) -> Task:
    """Those that rank the catalogue, averaged; UserError for fewer than two."""
    ranking = [task for task in tasks if task.kind == "catalogue"]
    if len(ranking) < 2:
        found = ", ".join(task.template.id for task in ranking) or "none"
        raise UserError(f"average: found {found}, expected several prompts that rank the catalogue")
    first, *others = ranking
    return replace(first, others=tuple(task.template for task in others))


def default_prompts(family: Family, split: str) -> tuple[str, ...]:
    """The prompts shown when none are asked for: seen ones and all unseen ones that have examples.

    When the data lacks what the usual seen prompts need, the first seen one that it can fill.
    """
    return _shown(family, [id for id in family.templates if family.size(split, id)])


def next_item_prompt(family: Family) -> str:
    """The first of the default prompts that asks for an item of the whole catalogue."""
    says = family.source.can_say  # not what is held out: new users are asked about, too
    shown = _shown(family, [id for id, template in family.templates.items() if says(template)])
    return next((id for id in shown if kind_of(family.template(id)) == "catalogue"), shown[0])


def _shown(family: Family, fillable: Collection[str]) -> tuple[str, ...]:
    usable = [id for id, t in family.templates.items() if not t.zero_shot and id in fillable]
    unseen = [id for id in usable if not family.templates[id].seen]
    seen = [id for id in FAMILIES[family.name].usual if id in usable and id not in unseen]
    if not seen:
        seen = [id for id in usable if id not in unseen][:1]
    return (*seen, *unseen)


def chosen_prompts(
    run: RunLike, families: Sequence[str] | None, prompts: Sequence[str] | None, split: str
) -> list[tuple[str, str]]:
    """The (family, prompt id) pairs asked for, in the order of the families.

    Without `prompts`, the default ones of `families`; without `families`, those of the prompts, or
    all of the run. UserError for what the run lacks.
    """
    for argument, names in (("families", families), ("prompts", prompts)):
        if names is not None and not names:
            raise UserError(f"{argument}: found none, expected at least one")
    lent = {name: _lent(run, name) if prompts else [] for name in families or ()}
    for family in families or ():
        if family not in run.families and not lent[family]:
            raise UserError(
                f"families: found {family!r}, expected some of {', '.join(run.families)}"
                f"{nearest(family, FAMILIES)}"
            )
    wanted = [name for name in FAMILIES if name in (families or run.families)]
    if prompts is None:
        return [(name, id) for name in wanted for id in default_prompts(run.families[name], split)]
    asks = {name: {*lent.get(name, ()), *_own_prompts(run, name)} for name in wanted}
    known = set().union(*asks.values())
    for id in prompts:
        if id not in known:
            raise UserError(
                f"prompts: {id!r} is not a prompt of {', '.join(wanted)}{nearest(id, known)}"
            )
    return [(name, id) for name in wanted for id in dict.fromkeys(prompts) if id in asks[name]]


def _lent(run: RunLike, family: str) -> list[str]:
    """The prompts that rank a family's candidates without being of it: those for the next item."""
    lender = run.families.get(LENDER)
    if lender is None or family not in FAMILIES or not FAMILIES[family].among_candidates:
        return []
    return [id for id, t in lender.templates.items() if kind_of(t) == "catalogue"]


def _own_prompts(run: RunLike, family: str) -> Iterable[str]:
    return run.families[family].templates if family in run.families else ()
