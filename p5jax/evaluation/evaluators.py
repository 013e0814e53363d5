"""Evaluate a run: each family's prompts on a split, with the baselines beside them.

What a prompt is asked for decides how it is judged: an item (ranking), stars, text, or one of two
answers. Everything is written per user, so that two runs can be compared by a paired test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.progress import Report
from p5jax.core.shard import Shard
from p5jax.data.names import HELD_OUT_SPLITS
from p5jax.evaluation.answer_evaluators import evaluate_choice, evaluate_rating, evaluate_text
from p5jax.evaluation.baselines.ranking import RankingBaselines
from p5jax.evaluation.baselines.results import baseline_results, memory_baseline
from p5jax.evaluation.figures import warm_results, with_warmth
from p5jax.evaluation.keeping import keep_results, reserve
from p5jax.evaluation.prompts import chosen_prompts, prompt_task, together
from p5jax.evaluation.rank_metrics import ranking_columns
from p5jax.evaluation.ranking_evaluators import (
    evaluate_candidates,
    evaluate_catalogue,
    evaluate_yes_no,
)
from p5jax.evaluation.results import FamilyResult
from p5jax.evaluation.settings import DEFAULTS, EvaluationConfig
from p5jax.evaluation.task import RunLike, Task
from p5jax.memory.memory import Memory
from p5jax.parallel import distributed
from p5jax.training.checkpoints import params_fingerprint

_EVALUATORS: Mapping[str, Callable[[Task], FamilyResult]] = {
    "catalogue": evaluate_catalogue,
    "candidates": evaluate_candidates,
    "yes_no": evaluate_yes_no,
    "rating": evaluate_rating,
    "text": evaluate_text,
    "choice": evaluate_choice,
}


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
) -> FamilyResult:
    """Evaluate one prompt on at most `limit` examples of a split, the same for every run.

    memory: what a ranking of the catalogue is mixed with. A prompt of the sequential family for an
    item ranks the candidates of the direct one, too.
    UserError when the run lacks the family or the prompt, or no record can fill it. A run on a mesh
    is evaluated by all its devices and processes, each of which must call it.
    """
    _check_split(split)
    task = prompt_task(run, family, prompt_id, split, limit, config, report)
    return _evaluated(replace(task, memory=memory))


def _evaluated(task: Task) -> FamilyResult:
    return _EVALUATORS[task.kind](task)


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
    tasks = [
        prompt_task(run, family, id, split, limit, config, report)
        for family, id in chosen_prompts(run, families, prompts, split)
    ]
    if average:
        tasks.append(together(tasks))
    share = None if shard is None else Shard.read(shard)
    shares = [task.share(share) for task in tasks]
    folder, header = _reserved(run, split, limit, config, memory, share, about)
    results: list[FamilyResult] = []
    largest: dict[tuple[str, str], tuple[int, FamilyResult]] = {}
    for task, own in zip(tasks, shares, strict=True):
        results.append(_evaluated(own))
        if memory and task.kind == "catalogue":
            results.append(_evaluated(replace(own, memory=memory)))
        key, count = (task.about, task.kind), len(task.indices)
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


def _reserved(
    run: RunLike,
    split: str,
    limit: int | None,
    config: EvaluationConfig,
    memory: Memory | None,
    shard: Shard | None,
    about: str,
) -> tuple[Path, dict[str, Any]]:
    """The results' folder, in which nothing else is kept, and what they depend on."""
    name = _folder_name(split, limit, config) + about
    header = _header(run, split, limit, config) | {"memory": memory and asdict(memory.settings)}
    if shard is not None:
        name += f"-shard-{shard.number}-of-{shard.count}"
        header |= {"shard": str(shard), "items": run.dataset.num_items}
    folder = Path(run.path) / "evaluation" / name
    reserve(folder, header)
    return folder, header


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
