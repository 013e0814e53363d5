"""Sequential and direct recommendation: where the held-out item stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from p5jax.evaluation.figures import figures
from p5jax.evaluation.rank_metrics import LIST_LENGTH, ranking_columns
from p5jax.evaluation.results import EXAMPLES_SHOWN, FamilyResult
from p5jax.evaluation.task import ReadsUsers, Task
from p5jax.inference.ranking import Asked, given_rows, id_trie, rank, score_all, score_items
from p5jax.inference.trie import Trie
from p5jax.pipeline.batching import padded
from p5jax.pipeline.samples import encoded_source
from p5jax.prompts.families import Example, UserFamily

_YES_NO_BATCH = 128  # one item's prompts are short


def ranking_result(
    family: str,
    prompt_id: str,
    kind: str,
    users: np.ndarray,
    targets: np.ndarray,
    ranks: np.ndarray,
    lists: list[list[int]],
    num_items: int,
    *,
    seen: bool | None = True,
    baseline: bool = False,
    candidates: int = 0,
    certified: Sequence[bool] = (),
    examples: list[tuple[str, str, str]] | None = None,
) -> FamilyResult:
    """Metrics from 0-based ranks [N] (np.inf: not ranked) and the first ten items of each user.

    In the per-user table a rank of -1 means not ranked, and of a catalogue only the list is.
    """
    order = np.argsort(users, kind="stable")
    users, targets, ranks = users[order], targets[order], np.asarray(ranks, np.float64)[order]
    lists = [lists[position][:LIST_LENGTH] for position in order]
    if kind == "catalogue":
        ranks = np.where(ranks < LIST_LENGTH, ranks, np.inf)
    columns = ranking_columns(ranks, candidates or num_items)
    if certified:
        columns["certified"] = np.asarray(certified, np.float64)[order]
    table = pa.table(
        {
            "user": pa.array(users, pa.int32()),
            "item": pa.array(targets, pa.int32()),
            "rank": pa.array(np.where(np.isfinite(ranks), ranks, -1).astype(np.int32)),
            **{name: pa.array(values) for name, values in columns.items()},
            "top": pa.array(lists, pa.list_(pa.int32())),
        }
    )
    shown, metrics = examples or [], figures(kind, table, num_items)
    return FamilyResult(
        family, prompt_id, seen, len(users), metrics, table, shown, kind, baseline, candidates
    )


def place_of(scores: np.ndarray, candidates: np.ndarray, target: int) -> int:
    """The 0-based rank of `target` among candidates [C] with scores [C].

    Of equal scores the earlier candidate wins: the target's position is random, so a model that
    gives every item the same score gets what chance gets, neither the best rank nor the worst.
    """
    own = int(np.flatnonzero(candidates == target)[0])
    better = int((scores > scores[own]).sum())
    return better + int((scores[:own] == scores[own]).sum())


class _Found:
    """Collects one user after another."""

    def __init__(self, task: Task):
        self.task = task
        self.users: list[int] = []
        self.targets: list[int] = []
        self.ranks: list[float] = []
        self.lists: list[list[int]] = []
        self.examples: list[tuple[str, str, str]] = []
        self.candidates = 0
        self.certified: list[bool] = []

    def add(self, example: Example, target: int, rank: float, best: np.ndarray) -> None:
        self.users.append(example.user)
        self.targets.append(target)
        self.ranks.append(rank)
        self.lists.append([int(item) for item in best[:LIST_LENGTH] if item >= 0])
        if example.candidates is not None:
            self.candidates = len(example.candidates)
        if len(self.examples) < EXAMPLES_SHOWN:
            answer, reference = self._name(self.lists[-1][0]), self._name(target)
            self.examples.append((example.inputs, answer, reference))

    def _name(self, item: int) -> str:
        dataset = self.task.run.dataset
        title = dataset.titles[item]
        return f"{dataset.item_ids[item]} ({title})" if title else dataset.item_ids[item]

    def result(self, kind: str) -> FamilyResult:
        task = self.task
        return ranking_result(
            task.about,
            task.label,
            kind,
            np.array(self.users),
            np.array(self.targets),
            np.array(self.ranks),
            self.lists,
            task.run.dataset.num_items,
            seen=all(template.seen for template in (task.template, *task.others)),
            candidates=self.candidates,
            certified=self.certified,
            examples=self.examples,
        )


def evaluate_catalogue(task: Task) -> FamilyResult:
    """Rank the whole catalogue without the user's history.

    `certified` is the share of lists that are guaranteed to be the model's best. The target's rank
    is its position in the list; beyond the list it counts as not ranked. With a memory the ranking
    is by mixed scores, and with other prompts by the mean of the prompts' probabilities.
    """
    run, config = task.run, task.config
    trie, *tries = (
        id_trie(task.family, template.id, run.vocabulary, config.method, run.params)
        for template in (task.template, *task.others)
    )
    found = _Found(task)
    for examples, tokens in task.batches():
        # Rows that fill a last batch repeat a user: an empty prompt could be endless to certify.
        rows = examples + [examples[0]] * (len(tokens) - len(examples))
        tokens[len(examples) :] = tokens[0]
        users = [example.user for example in rows]
        exclude = task.histories(users)
        ranking = rank(
            run.model,
            run.params,
            tokens,
            trie,
            LIST_LENGTH,
            config.method,
            given=given_rows([example.given for example in rows], run.vocabulary),
            beam=config.beam,
            exact=config.exact,
            exclude=exclude,
            beside=task.beside(users, exclude),
            others=list(_others(task, tries, users)),
        )
        for example, best, exact in zip(examples, ranking.items, ranking.exact, strict=False):
            position = np.flatnonzero(best == example.item)
            found_at = float(position[0]) if len(position) else np.inf
            found.add(example, example.item, found_at, best)
            found.certified.append(bool(exact))
    return found.result("catalogue")


def _others(task: Task, tries: list[Trie], users: list[int]) -> Iterator[Asked]:
    """What the prompts that are averaged with the task's own ask about the same users [B]."""
    index = {user: number for number, user in enumerate(task.family.users(task.split).tolist())}
    run, longest = task.run, task.family.source.config.max_source
    for template, trie in zip(task.others, tries, strict=True):
        examples = [
            task.family.example(task.split, index[user], prompt_id=template.id) for user in users
        ]
        tokens = padded([encoded_source(each, run.vocabulary, longest) for each in examples])
        if isinstance(run, ReadsUsers):
            tokens = run.sources(tokens, np.array(users, np.int32))
        yield Asked(tokens, trie, given_rows([each.given for each in examples], run.vocabulary))


def evaluate_candidates(task: Task) -> FamilyResult:
    """Rank the pair's candidates by the exact log-probability of each one's id.

    Where a prompt lists none they are the frozen ones, which all prompts share.
    """
    run = task.run
    trie = id_trie(task.family, task.template.id, run.vocabulary, "certified", run.params)
    found = _Found(task)
    for examples, tokens in task.batches():
        examples = [_with_candidates(task, example) for example in examples]
        rows = examples + [examples[-1]] * (len(tokens) - len(examples))
        listed = np.stack([_candidates(example) for example in rows])
        given = given_rows([example.given for example in rows], run.vocabulary)
        logp = score_items(run.model, run.params, tokens, trie, listed, given)
        for example, candidates, scores in zip(examples, listed, logp, strict=False):
            best = candidates[np.argsort(-scores, kind="stable")]
            found.add(example, example.item, place_of(scores, candidates, example.item), best)
    return found.result("candidates")


def evaluate_yes_no(task: Task) -> FamilyResult:
    """Rank the candidates by log P(yes) - log P(no), each asked about in a prompt of its own."""
    run = task.run
    answers = Trie.of_texts(("yes", "no"), run.vocabulary)
    first = task.family.example(task.split, int(task.indices[0]), prompt_id=task.template.id)
    total = len(task.indices) * len(_candidates(first))
    margins: dict[tuple[int, int], float] = {}
    for examples, tokens in task.batches(_asked(task), total, _YES_NO_BATCH, 32):
        rows = examples + [examples[-1]] * (len(tokens) - len(examples))
        given = given_rows([example.given for example in rows], run.vocabulary)
        logp = score_all(run.model, run.params, tokens, answers, given)
        for example, (yes, no) in zip(examples, logp, strict=False):
            margins[example.user, example.item] = float(yes - no)
    found = _Found(task)
    for example in task.examples():
        candidates = _candidates(example)
        target = run.dataset.target(example.user, task.split)
        scores = np.array([margins[example.user, item] for item in candidates.tolist()])
        best = candidates[np.argsort(-scores, kind="stable")]
        found.add(example, target, place_of(scores, candidates, target), best)
    return found.result("yes_no")


def _asked(task: Task) -> Iterator[Example]:
    """Every candidate's own prompt."""
    family = task.family
    if not isinstance(family, UserFamily):
        raise ValueError(f"{family.name}: not a family that asks about users' candidates")
    for index in task.indices.tolist():
        example = family.example(task.split, index, prompt_id=task.template.id)
        for item in _candidates(example).tolist():
            yield family.candidate_example(task.split, index, task.template.id, item)


def _with_candidates(task: Task, example: Example) -> Example:
    if example.candidates is not None:
        return example
    frozen = task.family.source.frozen_candidates(task.split, example.user)
    return replace(example, candidates=frozen)


def _candidates(example: Example) -> np.ndarray:
    if example.candidates is None:
        raise ValueError(f"prompt {example.prompt_id}: an evaluation example without candidates")
    return example.candidates
