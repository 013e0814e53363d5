"""Ratings, explanations, headlines and yes/no answers: what the model says, against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from scipy.special import softmax

from p5jax.evaluation.figures import figures
from p5jax.evaluation.metrics import (
    rating_columns,
    ratings_from_text,
    text_columns,
    without_rating,
)
from p5jax.evaluation.results import EXAMPLES_SHOWN, FamilyResult
from p5jax.evaluation.task import Task
from p5jax.inference.decoding import greedy
from p5jax.inference.ranking import given_rows, score_all
from p5jax.inference.trie import Trie
from p5jax.memory.histories import ratings_of
from p5jax.parallel.placing import place_rows, to_host
from p5jax.prompts.families import Example
from p5jax.prompts.sampling import whole_stars

# Every way a rating is written: whole stars, and the tenths of jittered training targets.
RATING_TEXTS = tuple(str(n) for n in range(1, 6)) + tuple(
    f"{n // 10}.{n % 10}" for n in range(10, 51)
)


def rating_result(
    family: str,
    prompt_id: str,
    users: np.ndarray,
    items: np.ndarray,
    predictions: np.ndarray,
    answers: np.ndarray,
    *,
    seen: bool = True,
    baseline: bool = False,
    columns: Mapping[str, np.ndarray | list[str]] | None = None,
) -> FamilyResult:
    """RMSE and MAE of predicted ratings [N] against true ones [N]; `columns` are kept beside."""
    table = _table(
        users,
        items,
        prediction=predictions,
        reference=answers,
        **rating_columns(predictions, answers),
        **(columns or {}),
    )
    return _result("rating", family, prompt_id, table, seen=seen, baseline=baseline)


def text_result(
    family: str,
    prompt_id: str,
    users: np.ndarray,
    items: np.ndarray,
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    seen: bool = True,
    baseline: bool = False,
    examples: list[tuple[str, str, str]] | None = None,
) -> FamilyResult:
    """BLEU, ROUGE and distinctness of texts [N] against references [N]."""
    table = _table(
        users,
        items,
        prediction=list(predictions),
        reference=list(references),
        **text_columns(predictions, references),
    )
    return _result(
        "text", family, prompt_id, table, seen=seen, baseline=baseline, examples=examples
    )


def choice_result(
    family: str,
    prompt_id: str,
    users: np.ndarray,
    items: np.ndarray,
    chosen: Sequence[str],
    references: Sequence[str],
    *,
    seen: bool = True,
    baseline: bool = False,
    examples: list[tuple[str, str, str]] | None = None,
) -> FamilyResult:
    """The share of chosen answers [N] that are the true ones [N]."""
    right = np.array([a == b for a, b in zip(chosen, references, strict=True)], np.float64)
    table = _table(
        users, items, prediction=list(chosen), reference=list(references), accuracy=right
    )
    return _result(
        "choice", family, prompt_id, table, seen=seen, baseline=baseline, examples=examples
    )


def _result(
    kind: str,
    family: str,
    prompt_id: str,
    table: pa.Table,
    *,
    seen: bool,
    baseline: bool,
    examples: list[tuple[str, str, str]] | None = None,
) -> FamilyResult:
    metrics = figures(kind, table, num_items=0)  # nothing is ranked
    shown = examples or []
    return FamilyResult(
        family, prompt_id, seen, table.num_rows, metrics, table, shown, kind, baseline
    )


def _table(users: np.ndarray, items: np.ndarray, **columns: np.ndarray | list[str]) -> pa.Table:
    pairs = {"user": pa.array(users, pa.int32()), "item": pa.array(items, pa.int32())}
    return pa.table(pairs | {name: pa.array(values) for name, values in columns.items()})


def _sorted(examples: list[Example]) -> np.ndarray:
    """The order of (user, item): batches come by length."""
    return np.lexsort(([e.item for e in examples], [e.user for e in examples]))


def _pairs(examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([e.user for e in examples]), np.array([e.item for e in examples])


def evaluate_rating(task: Task) -> FamilyResult:
    """Predict stars by the expectation over every way a rating is written.

    The expectation of the stars that each text stands for, under the model's probabilities of the
    46 texts, minimises the expected squared error and undoes the jitter's pull to the middle.
    What P5 does, the greedy text read as a number, stands beside it ("greedy"): there a text that
    is not a number counts as the training mean and in `unparsable`.
    """
    run = task.run
    trie = Trie.of_texts(RATING_TEXTS, run.vocabulary)
    longest = sum(level.length for level in trie.levels) + trie.tail.shape[1]
    stars = np.array([whole_stars(float(text)) for text in RATING_TEXTS], np.float64)
    examples: list[Example] = []
    expected: list[float] = []
    said: list[str] = []
    for batch, tokens in task.batches():
        weight = softmax(score_all(run.model, run.params, tokens, trie).astype(np.float64), axis=1)
        mean = (weight * stars).sum(axis=1)
        output = to_host(greedy(run.model, run.params, place_rows(run.params, tokens), longest))
        examples += batch
        expected += mean[: len(batch)].tolist()
        said += [run.vocabulary.decode(row.tolist()) for row in output[: len(batch)]]
    order = _sorted(examples)
    examples, said = [examples[i] for i in order], [said[i] for i in order]
    answers = np.array([e.answer for e in examples], np.float64)
    users, items = _pairs(examples)
    predictions = np.array(expected)[order]
    greedy_ratings, _ = ratings_from_text(said, float(ratings_of(run.dataset, "train")[2].mean()))
    result = rating_result(
        task.about,
        task.template.id,
        users,
        items,
        predictions,
        answers,
        seen=task.template.seen,
        columns={
            "text": said,
            "prediction greedy": greedy_ratings,
            "squared_error greedy": rating_columns(greedy_ratings, answers)["squared_error"],
        },
    )
    result.examples.extend(
        (e.inputs, f"{p:.2f} (said {s!r})", f"{e.answer:g}")
        for e, p, s in zip(examples[:EXAMPLES_SHOWN], predictions, said, strict=False)
    )
    return result


def evaluate_text(task: Task) -> FamilyResult:
    """Generate greedily and compare with the reference, both without a leading rating, and without
    what the answer is given to begin with."""
    run = task.run
    examples: list[Example] = []
    said: list[str] = []
    for batch, tokens in task.batches():
        rows = batch + [batch[-1]] * (len(tokens) - len(batch))
        given = given_rows([example.given for example in rows], run.vocabulary)
        known = np.zeros(len(tokens), int) if given is None else (given >= 0).sum(axis=1)
        begun = None if given is None else place_rows(run.params, given)
        sources = place_rows(run.params, tokens)
        output = to_host(greedy(run.model, run.params, sources, task.config.max_length, begun))
        examples += batch
        said += [
            run.vocabulary.decode(row[count:].tolist())
            for row, count in zip(output[: len(batch)], known.tolist(), strict=False)
        ]
    order = _sorted(examples)
    examples, said = [examples[i] for i in order], [said[i] for i in order]
    if "rating" in task.template.target_fields:
        said = [without_rating(text) for text in said]
    references = [str(e.answer) for e in examples]
    users, items = _pairs(examples)
    shown = zip([e.inputs for e in examples[:EXAMPLES_SHOWN]], said, references, strict=False)
    return text_result(
        task.about,
        task.template.id,
        users,
        items,
        said,
        references,
        seen=task.template.seen,
        examples=list(shown),
    )


def evaluate_choice(task: Task) -> FamilyResult:
    """Which of two answers is more probable, as a share of right answers."""
    run = task.run
    options = ("like", "dislike") if "like" in task.template.target_fields else ("yes", "no")
    trie = Trie.of_texts(options, run.vocabulary)
    examples: list[Example] = []
    chosen: list[str] = []
    for batch, tokens in task.batches():
        logp = score_all(run.model, run.params, tokens, trie)
        examples += batch
        chosen += [options[best] for best in logp.argmax(axis=1)[: len(batch)]]
    order = _sorted(examples)
    examples, chosen = [examples[i] for i in order], [chosen[i] for i in order]
    references = [str(e.answer) for e in examples]
    users, items = _pairs(examples)
    shown = zip([e.inputs for e in examples[:EXAMPLES_SHOWN]], chosen, references, strict=False)
    return choice_result(
        task.about,
        task.template.id,
        users,
        items,
        chosen,
        references,
        seen=task.template.seen,
        examples=list(shown),
    )
