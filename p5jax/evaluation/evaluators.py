"""Evaluate a run: each family's prompts on a split, with the baselines beside them.

What a prompt is asked for decides how it is judged: an item (ranking), stars, text, or one of two
answers. Everything is written per user, so that two runs can be compared by a paired test.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from p5jax.core.errors import UserError, nearest
from p5jax.core.progress import Report
from p5jax.core.shard import Shard
from p5jax.data.families import FAMILIES
from p5jax.data.names import HELD_OUT_SPLITS
from p5jax.evaluation.answer_evaluators import evaluate_choice, evaluate_rating, evaluate_text
from p5jax.evaluation.baselines.ranking import RankingBaselines
from p5jax.evaluation.baselines.results import baseline_results, memory_baseline
from p5jax.evaluation.figures import warm_results, with_warmth
from p5jax.evaluation.keeping import keep_results, reserve
from p5jax.evaluation.rank_metrics import ranking_columns
from p5jax.evaluation.ranking_evaluators import (
    evaluate_candidates,
    evaluate_catalogue,
    evaluate_yes_no,
)
from p5jax.evaluation.results import FamilyResult, format_results, summary
from p5jax.evaluation.settings import EvaluationConfig
from p5jax.evaluation.task import RunLike, Task, chosen_indices
from p5jax.memory.memory import Memory
from p5jax.parallel import distributed
from p5jax.prompts.families import Family
from p5jax.prompts.template import PromptTemplate
from p5jax.training.checkpoints import params_fingerprint

__all__ = [
    "EvaluationConfig",
    "FamilyResult",
    "baseline_results",
    "default_prompts",
    "evaluate_family",
    "evaluate_run",
    "format_results",
    "summary",
]

DEFAULTS = EvaluationConfig()
LENDER = "sequential"  # whose prompts for an item also rank the candidates of other families
_EVALUATORS: Mapping[str, Callable[[Task], FamilyResult]] = {
    "catalogue": evaluate_catalogue,
    "candidates": evaluate_candidates,
    "yes_no": evaluate_yes_no,
    "rating": evaluate_rating,
    "text": evaluate_text,
    "choice": evaluate_choice,
}


def kind_of(template: PromptTemplate) -> str:
    """How a prompt is judged: a key of the evaluators."""
    targets, among = template.asks_for, FAMILIES[template.family].among_candidates
    if "item" in targets:
        listed = among or "cand" in template.fields
        return "candidates" if listed else "catalogue"
    if "yes_no" in targets and among:
        return "yes_no"
    if "explanation" in targets or "headline" in targets:
        return "text"
    return "rating" if "rating" in targets else "choice"


def default_prompts(family: Family, split: str) -> tuple[str, ...]:
    """The prompts shown when none are asked for: seen ones and all unseen ones that have examples.

    When the data lacks what the usual seen prompts need, the first seen one that it can fill.
    """
    return _shown(family, [id for id in family.templates if family.size(split, id)])


def _shown(family: Family, fillable: Collection[str]) -> tuple[str, ...]:
    usable = [id for id, t in family.templates.items() if not t.zero_shot and id in fillable]
    unseen = [id for id in usable if not family.templates[id].seen]
    seen = [id for id in FAMILIES[family.name].usual if id in usable and id not in unseen]
    if not seen:
        seen = [id for id in usable if id not in unseen][:1]
    return (*seen, *unseen)


def next_item_prompt(family: Family) -> str:
    """The first of the default prompts that asks for an item of the whole catalogue."""
    says = family.source.can_say  # not what is held out: new users are asked about, too
    shown = _shown(family, [id for id, template in family.templates.items() if says(template)])
    return next((id for id in shown if kind_of(family.template(id)) == "catalogue"), shown[0])


def evaluate_family(
    run: RunLike,
    family: str,
    prompt_id: str,
    split: str,
    limit: int | None = None,
    *,
    config: EvaluationConfig = DEFAULTS,
    report: Report = distributed.report,
    memory: Memory | None = None,
    averaged_with: Sequence[str] = (),
    shard: Shard | None = None,
) -> FamilyResult:
    """Evaluate one prompt on at most `limit` examples of a split, the same for every run.

    memory: what a ranking of the catalogue is mixed with. A prompt of the sequential family for an
    item ranks the candidates of the direct one, too. averaged_with: prompts of the same family
    that rank the catalogue, too, by the mean of the probabilities. shard: the share of the examples
    that is evaluated.
    UserError when the run lacks the family or the prompt, or no record can fill it. A run on a mesh
    is evaluated by all its devices and processes, each of which must call it.
    """
    _check_split(split)
    examples_of, template, kind = _asked(run, family, prompt_id)
    indices = _indices(run, family, prompt_id, split, limit, config)
    if shard is not None:
        if len(indices) < shard.count:
            found = f"{len(indices)} examples of prompt {prompt_id}"
            raise UserError(f"shard: found {found}, expected one or more for each of {shard.count}")
        indices = indices[shard.number - 1 :: shard.count]
    others = tuple(examples_of.template(id) for id in averaged_with)
    task = Task(run, examples_of, template, split, indices, config, report, memory, others)
    return replace(_EVALUATORS[kind](task), family=family)


def _indices(
    run: RunLike,
    family: str,
    prompt_id: str,
    split: str,
    limit: int | None,
    config: EvaluationConfig,
) -> np.ndarray:
    """The examples that a prompt is evaluated on; UserError when there are none."""
    examples_of, _, kind = _asked(run, family, prompt_id)
    size = examples_of.size(split, prompt_id)
    if not size:
        raise UserError(f"prompt {prompt_id}: no {split} record has all that it needs")
    if kind == "yes_no":
        limit = config.yes_no_users if limit is None else min(limit, config.yes_no_users)
    return chosen_indices(size, limit, config.seed)


def _asked(run: RunLike, family: str, prompt_id: str) -> tuple[Family, PromptTemplate, str]:
    """The family whose examples a prompt asks about, the prompt, and how it is judged."""
    lent = prompt_id in _lent(run, family)
    if family not in run.families and not lent:
        raise UserError(
            f"families: {family!r} is not in this run, which has {', '.join(run.families)}"
        )
    examples_of = run.families[LENDER if lent else family]
    template = examples_of.template(prompt_id)
    return examples_of, template, "candidates" if lent else kind_of(template)


def _lent(run: RunLike, family: str) -> list[str]:
    """The prompts that rank a family's candidates without being of it: those for the next item."""
    lender = run.families.get(LENDER)
    if lender is None or family not in FAMILIES or not FAMILIES[family].among_candidates:
        return []
    return [id for id, t in lender.templates.items() if kind_of(t) == "catalogue"]


def validation_ranking(run: RunLike, prompt_id: str, limit: int) -> dict[str, float]:
    """HR@10 and NDCG@10 of at most `limit` validation users over the whole catalogue, silently.

    For the records of a training; a metric that means nothing for the catalogue's size is absent.
    """
    result = evaluate_family(
        run, "sequential", prompt_id, "validation", limit=limit, report=lambda line: None
    )
    names = validation_metrics(run.dataset.num_items)
    return {name: result.metrics[name.removeprefix("validation/")][0] for name in names}


def validation_metrics(num_items: int) -> list[str]:
    """The names of what `validation_ranking` measures for a catalogue of num_items."""
    columns = ranking_columns(np.zeros(1), num_items)
    return [f"validation/{name}" for name in ("HR@10", "NDCG@10") if name in columns]


def evaluate_run(
    run: RunLike,
    families: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    split: str = "test",
    limit: int | None = None,
    *,
    config: EvaluationConfig = DEFAULTS,
    report: Report = distributed.report,
    memory: Memory | None = None,
    about: str = "",
    average: bool = False,
    shard: str | None = None,
) -> list[FamilyResult]:
    """Evaluate prompts and their baselines, and write them to RUN/evaluation/<split>/.

    With a memory each ranking of the catalogue is measured without and with it, and the memory
    alone is among the baselines. average: those that rank the catalogue are also measured
    together, by the mean of their probabilities; UserError where they are not several.

    With a limit, or other settings than the defaults, to a folder of their own beside it, as are
    those `about` another dataset, which then ends its name. shard: "2/4" evaluates every fourth
    example from the second one, also to a folder of its own, for evaluation.merging. The
    baselines of a kind are measured on the examples of its result that has the most.
    Without `prompts`, the default ones of `families`; without `families`, those of the prompts, or
    all of the run. Sequential prompts also rank direct's candidates, where it is named.
    UserError for an unknown family or prompt, and for a folder that cannot be written or whose
    earlier results cannot be read, before anything is computed; Unwritten, with the results, when
    they cannot be written after all.
    """
    _check_split(split)
    run.dataset.refuse_nothing_held_out()
    chosen = _chosen(run, families, prompts, split)
    together = _averaged(run, chosen) if average else []
    share = None if shard is None else Shard.read(shard)
    name = _folder_name(split, limit, config) + about
    header = _header(run, split, limit, config) | {"memory": memory and asdict(memory.settings)}
    if share is not None:
        name += f"-shard-{share.number}-of-{share.count}"
        header |= {"shard": str(share), "items": run.dataset.num_items}
    folder = Path(run.path) / "evaluation" / name
    reserve(folder, header)
    results: list[FamilyResult] = []
    largest: dict[tuple[str, str], tuple[int, FamilyResult]] = {}
    measured = [(family, (id,)) for family, id in chosen] + together
    for family, (first, *others) in measured:
        *_, kind = _asked(run, family, first)
        for beside in (None, memory) if memory and kind == "catalogue" else (None,):
            results.append(
                evaluate_family(
                    run,
                    family,
                    first,
                    split,
                    limit,
                    config=config,
                    report=report,
                    memory=beside,
                    averaged_with=others,
                    shard=share,
                )
            )
        count = len(_indices(run, family, first, split, limit, config))
        key = family, kind
        if key not in largest or count > largest[key][0]:  # in all shards the same
            largest[key] = count, results[-1]
    ranking = RankingBaselines(run.dataset, report)
    for _, result in largest.values():
        results += baseline_results(run, result, split, ranking)
        if memory and result.kind == "catalogue":
            results.append(memory_baseline(run.dataset, memory, result, split))
    if run.dataset.cuts:
        results = [with_warmth(result, run.dataset) for result in results]
    if share is None:  # of shards the merge tells, which has all rows
        results += warm_results(results, run.dataset.num_items)
    keep_results(folder, results, header)
    return results


def _check_split(split: str) -> None:
    if split not in HELD_OUT_SPLITS:
        raise UserError(f"split: found {split!r}, expected {' or '.join(HELD_OUT_SPLITS)}")


def _folder_name(split: str, limit: int | None, config: EvaluationConfig) -> str:
    """The split, and whatever makes the results other than its full ones."""
    parts = [split] if limit is None else [split, f"limit-{limit}"]
    for name, value in _settings(config).items():
        if value != getattr(DEFAULTS, name):
            parts.append(f"{name}-{value}")
    if not config.memory:
        parts.append("no-memory")
    return "-".join(parts)


def _settings(config: EvaluationConfig) -> dict[str, Any]:
    """The settings that change a result unseen: the batch size does not, n tells yes_no_users."""
    return {
        name: getattr(config, name) for name in ("method", "beam", "exact", "max_length", "seed")
    }


def _chosen(
    run: RunLike, families: Sequence[str] | None, prompts: Sequence[str] | None, split: str
) -> list[tuple[str, str]]:
    """The (family, prompt id) pairs asked for, in the order of the families."""
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


def _own_prompts(run: RunLike, family: str) -> Iterable[str]:
    return run.families[family].templates if family in run.families else ()


def _averaged(run: RunLike, chosen: list[tuple[str, str]]) -> list[tuple[str, tuple[str, ...]]]:
    """The prompts that rank the catalogue, to be averaged; UserError for fewer than two."""
    ranking = [id for family, id in chosen if _asked(run, family, id)[2] == "catalogue"]
    if len(ranking) < 2:
        found = ", ".join(ranking) or "none"
        raise UserError(f"average: found {found}, expected several prompts that rank the catalogue")
    return [(LENDER, tuple(ranking))]


def _header(
    run: RunLike, split: str, limit: int | None, config: EvaluationConfig
) -> dict[str, Any]:
    """What the results depend on: results of another header are not kept beside new ones."""
    return {
        "split": split,
        "dataset": run.dataset.name,
        "dataset_fingerprint": run.dataset.fingerprint,
        "leaky_item_ids": run.dataset.leaky,
        "params": params_fingerprint(run.params),
        "limit": limit,
        "config": _settings(config),
    }
