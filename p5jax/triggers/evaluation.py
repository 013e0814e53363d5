"""Found prompts against manual ones on held-out examples, by paired intervals over users."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy import stats

from p5jax.core.errors import Unwritten, UserError
from p5jax.core.progress import Report
from p5jax.core.text_table import aligned
from p5jax.evaluation.baselines.ranking import RankingBaselines
from p5jax.evaluation.baselines.results import baseline_results
from p5jax.evaluation.compare import Difference, compare_results
from p5jax.evaluation.evaluators import evaluate_family
from p5jax.evaluation.intervals import format_value, mean_intervals
from p5jax.evaluation.keeping import keep_results, reserve
from p5jax.evaluation.results import FamilyResult
from p5jax.evaluation.settings import DEFAULTS, EvaluationConfig
from p5jax.evaluation.task import RunLike
from p5jax.parallel import distributed
from p5jax.runs.run import Run
from p5jax.triggers.layout import PROMPT_ID
from p5jax.triggers.prompt import (
    TRIGGER_FOLDER,
    TriggeredRun,
    load_triggers,
    run_fingerprints,
)
from p5jax.triggers.templates import arguments_template

COMPARED_METRICS = {
    "sequential": ("HR@5", "NDCG@5", "HR@10", "NDCG@10"),
    "direct": ("HR@1", "HR@5", "NDCG@5", "HR@10"),
    "explanation": ("sentence BLEU-4", "ROUGE-1", "ROUGE-2", "ROUGE-L"),
}
_PUBLISHED = {"sequential": ("2-3", "2-13"), "direct": ("5-7", "5-8"), "explanation": ("3-1",)}
_USER, _ITEM = {"uid", "udesc"}, {"iid", "title", "item"}
# What a manual prompt may say to be a fair comparison: never the review's own stars or feature.
_FAIR = {
    "sequential": _USER | {"hist"},
    "direct": _USER | {"cand"},
    "explanation": _USER | _ITEM,
}


@dataclass(frozen=True)
class PromptComparison:
    """One kind of prompt beside the seen manual prompt.

    result: per-user values, averaged over `prompts`, the seeds of one search. By metric, the
    difference from the manual prompt: `differences` with intervals over users, `over_seeds` its
    95 % interval over seeds (Student's t), where there are several.
    """

    kind: str
    prompts: tuple[str, ...]
    result: FamilyResult
    over_seeds: dict[str, tuple[float, float]]
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Contender:
    """A prompt of the run's model to compare: a run-like object and the id of its prompt.

    Those of one kind with equal settings are averaged.
    """

    kind: str
    name: str
    settings: str
    run: RunLike
    prompt_id: str
    family: str = "sequential"


def evaluate_triggers(
    run: Run,
    folders: Sequence[str | Path],
    split: str = "test",
    limit: int | None = None,
    *,
    others: Sequence[Contender] = (),
    config: EvaluationConfig = DEFAULTS,
    report: Report = distributed.report,
) -> list[PromptComparison]:
    """Compare the prompts of `folders`, all of one family, with its manual prompts.

    Folders whose settings differ only in the seed are averaged, user by user. Each folder gets its
    results, in DIR/evaluation/triggers-SPLIT. `others`, sequential prompts, are compared and saved
    too, under their own kinds. UserError for prompts of several families or of another model, and
    on the test split for a search that is not finished; Unwritten, with the comparison, when
    results cannot be written.
    """
    if not folders and not others:
        raise UserError("folders: found none, expected at least one of p5jax triggers search")
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise UserError("folders: found one twice, expected each once")
    contenders = [*(_contender(Path(folder), run, split) for folder in folders), *others]
    families = {each.family for each in contenders}
    if len(families) > 1:
        raise UserError(f"folders: found prompts of {', '.join(sorted(families))}, expected one")
    (family,) = families
    header: dict[str, object] = {"split": split, "limit": limit, "identity": run_fingerprints(run)}
    header["leaky_item_ids"] = run.dataset.leaky
    for each in contenders:
        reserve(_kept(each, split), header)

    def evaluated(run: RunLike, id: str) -> FamilyResult:
        return evaluate_family(run, family, id, split, limit, config=config, report=report)

    manual = [(kind, evaluated(run, id)) for kind, id in _manual(run, family)]
    reference = manual[0][1]
    unwritten: list[Unwritten] = []
    groups: dict[tuple[str, str], list[FamilyResult]] = {}
    for each in contenders:
        result = evaluated(each.run, each.prompt_id)
        try:
            keep_results(_kept(each, split), [reference, result], header)
        except Unwritten as error:
            unwritten.append(error)
        named = replace(result, prompt_id=each.name)
        groups.setdefault((each.kind, each.settings), []).append(named)
    rows = [compared(kind, [result], reference) for kind, result in manual]
    rows += [compared(kind, members, reference) for (kind, _), members in groups.items()]
    ranking = RankingBaselines(run.dataset, report)
    rows += [
        PromptComparison("baseline", (result.prompt_id,), result, {}, {})
        for result in baseline_results(run, reference, split, ranking)
    ]
    if unwritten:
        raise Unwritten(unwritten[0], rows)
    return rows


def _contender(folder: Path, run: Run, split: str) -> Contender:
    """The trigger prompt of a folder; UserError for an unfinished search before its test."""
    prompt, found = load_triggers(folder, run), TRIGGER_FOLDER.read(folder)
    if split == "test" and not found["finished"]:
        raise UserError(
            f"{folder}: found a search that is not finished, expected a finished one before its"
            " test"
        )
    settings = {name: value for name, value in found["settings"].items() if name != "seed"}
    kind = "personalised" if prompt.layout.user_tokens else "non-personalised"
    return Contender(
        *(kind, folder.name, json.dumps(settings, sort_keys=True)),
        *(TriggeredRun(run, prompt, folder), PROMPT_ID, prompt.family),
    )


def _kept(contender: Contender, split: str) -> Path:
    """Where the results of a prompt are kept."""
    return contender.run.path / "evaluation" / f"{contender.prompt_id}-{split}"


def _manual(run: Run, family: str) -> list[tuple[str, str]]:
    """A seen and, if there is one, an unseen prompt, with no more information than a trigger prompt
    has: the published ones (PAP-REC, Table 2) where the run has them."""
    chosen: dict[str, str] = {}
    arguments = arguments_template(family)
    for id in (*_PUBLISHED[family], *run.families[family].templates):
        manual = run.families[family].templates.get(id)
        if (
            manual is not None
            and not manual.zero_shot
            and manual.target_fields == arguments.target_fields
            and set(manual.fields) <= _FAIR[family]
            and ("cand" in manual.fields) == ("cand" in arguments.fields)
        ):
            chosen.setdefault("seen manual" if manual.seen else "unseen manual", id)
    if "seen manual" not in chosen:
        raise UserError(f"{run.path}: has no seen {family} prompt to compare triggers with")
    return sorted(chosen.items())  # seen before unseen


def compared(
    kind: str, members: Sequence[FamilyResult], reference: FamilyResult
) -> PromptComparison:
    """One kind of prompt, of several seeds, beside the seen manual prompt."""
    average = averaged_over_seeds(members)
    names = compared_metrics(reference)
    over_seeds = {
        name: interval_over_seeds(
            [_mean(member, name) - _mean(reference, name) for member in members]
        )
        for name in names
        if len(members) > 1
    }
    same = replace(average, prompt_id=reference.prompt_id)
    found = compare_results([reference], [same])
    differences = {d.metric: d for d in found if d.metric in names}
    return PromptComparison(
        kind, tuple(m.prompt_id for m in members), average, over_seeds, differences
    )


def averaged_over_seeds(members: Sequence[FamilyResult]) -> FamilyResult:
    """One result with the per-user means of members that have the same examples; it has no metrics
    over all users."""
    if len(members) == 1:
        return members[0]
    keys = [("user", "ascending"), ("item", "ascending")]
    tables = [member.per_user.sort_by(keys) for member in members]
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for name in tables[0].column_names:
        first = tables[0][name]
        columns[name] = first
        if pa.types.is_floating(first.type):
            columns[name] = pa.array(np.mean([table[name].to_numpy() for table in tables], axis=0))
    return replace(members[0], per_user=pa.table(columns), metrics={})


def interval_over_seeds(differences: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean difference (Student's t), from the differences of seeds."""
    half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
    return float(np.mean(differences) - half), float(np.mean(differences) + half)


def compared_metrics(result: FamilyResult) -> list[str]:
    """Those that mean something for the number of candidates."""
    names = COMPARED_METRICS[result.family]
    return [name for name in names if name in result.per_user.column_names]


def _mean(result: FamilyResult, name: str) -> float:
    return float(np.mean(result.per_user[name].to_numpy()))


def format_prompt_comparison(rows: Sequence[PromptComparison]) -> str:
    """A table: each kind's means, and under them the difference from the seen manual prompt with
    its 95 % intervals, over users and over seeds."""
    names = compared_metrics(rows[0].result)
    lines: list[tuple[str, ...]] = [(f"{rows[0].result.family}, n = {rows[0].result.n}", *names)]
    for row in rows:
        columns = {name: row.result.per_user[name].to_numpy() for name in names}
        means = mean_intervals(columns, shares=row.result.kind != "text")
        shown = [format_value(means[name]) for name in names]
        lines.append((f"  {row.kind} ({', '.join(row.prompts)})", *(value for value, _ in shown)))
        lines.append(("", *(ends for _, ends in shown)))
        if row.differences and row.kind != "seen manual":
            cells = [_difference(row.differences[name]) for name in names]
            lines.append(("    - seen manual", *cells))
        if row.over_seeds:
            spans = (row.over_seeds[name] for name in names)
            lines.append(("    over seeds", *(f"[{low:+.4f}, {high:+.4f}]" for low, high in spans)))
    return "\n".join(aligned(lines))


def _difference(difference: Difference) -> str:
    if math.isnan(difference.low):
        return f"{difference.difference:+.4f}"
    d = difference
    return f"{d.difference:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"
