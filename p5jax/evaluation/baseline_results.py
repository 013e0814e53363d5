"""What predictors without a model reach on the very examples that a model was evaluated on."""

from __future__ import annotations

from collections import Counter

import numpy as np

from p5jax.data.dataset import TRAIN, Dataset
from p5jax.evaluation import baselines
from p5jax.evaluation.answer_evaluators import choice_result, rating_result, text_result
from p5jax.evaluation.histories import Histories, training_ratings
from p5jax.evaluation.rank_metrics import LIST_LENGTH
from p5jax.evaluation.ranking_evaluators import ranking_result
from p5jax.evaluation.results import FamilyResult
from p5jax.evaluation.task import RunLike
from p5jax.prompts.fields import prompt_text
from p5jax.prompts.records import LIKE_FROM


def baseline_results(run: RunLike, result: FamilyResult, split: str) -> list[FamilyResult]:
    """The baselines for a model's result, on the same users, items and candidates.

    Catalogue and candidates: the audit's rankings. Ratings: the global, item and user mean of
    training. Text: always the most frequent training sentence or headline. Like or dislike:
    always the more frequent one.
    """
    if result.kind == "catalogue":
        return catalogue_baselines(run.dataset, result, split)
    if result.kind in ("candidates", "yes_no"):
        return _candidates(run, result, split)
    if result.kind == "rating":
        return _ratings(run.dataset, result)
    if result.kind == "text":
        return [_frequent_text(run.dataset, result)]
    return _frequent_choice(run.dataset, result)


def _pairs(result: FamilyResult) -> tuple[np.ndarray, np.ndarray]:
    return result.per_user["user"].to_numpy(), result.per_user["item"].to_numpy()


def catalogue_baselines(dataset: Dataset, result: FamilyResult, split: str) -> list[FamilyResult]:
    """The baselines of a ranking of the whole catalogue, on its users."""
    users, targets = _pairs(result)
    found = []
    for name, ranks in baselines.baseline_ranks(dataset, split).items():
        best = baselines.top_k(dataset, split, name, LIST_LENGTH)[users]
        lists = [row[row >= 0].tolist() for row in best]
        found.append(
            ranking_result(
                result.family,
                name,
                "catalogue",
                users,
                targets,
                ranks[users],
                lists,
                dataset.num_items,
                baseline=True,
            )
        )
    return found


def _candidates(run: RunLike, result: FamilyResult, split: str) -> list[FamilyResult]:
    dataset, source = run.dataset, next(iter(run.families.values())).source  # all share one
    users, targets = _pairs(result)
    # The baselines want a row per user of the dataset: others' rows hold only their target.
    everyone = Histories.of(dataset, split).targets()
    candidates = np.repeat(everyone[:, None], source.num_candidates, axis=1)
    for user in users.tolist():
        candidates[user] = source.frozen_candidates(split, user)
    found = []
    for name, ranks in baselines.candidate_ranks(dataset, split, candidates).items():
        lists: list[list[int]] = [[] for _ in users]
        found.append(
            ranking_result(
                result.family,
                name,
                result.kind,
                users,
                targets,
                ranks[users],
                lists,
                dataset.num_items,
                baseline=True,
                candidates=candidates.shape[1],
            )
        )
    return found


def _ratings(dataset: Dataset, result: FamilyResult) -> list[FamilyResult]:
    users, items = _pairs(result)
    answers = result.per_user["reference"].to_numpy()
    train_users, train_items, stars = training_ratings(dataset)
    mean = float(stars.mean())

    def means_by(groups: np.ndarray, size: int) -> np.ndarray:
        """The mean of each group's ratings; the global mean where it has none."""
        count = np.bincount(groups, minlength=size)
        total = np.bincount(groups, weights=stars, minlength=size)
        return np.where(count > 0, total / np.maximum(count, 1), mean)

    predictions = {
        "global_mean": np.full(len(users), mean),
        "item_mean": means_by(train_items, dataset.num_items)[items],
        "user_mean": means_by(train_users, dataset.num_users)[users],
    }
    return [
        rating_result(result.family, name, users, items, values, answers, baseline=True)
        for name, values in predictions.items()
    ]


def _frequent_text(dataset: Dataset, result: FamilyResult) -> FamilyResult:
    column = "sentence" if result.family == "explanation" else "headline"
    users, items = _pairs(result)
    answer = most_frequent(dataset, column)
    references = result.per_user["reference"].to_pylist()
    return text_result(
        result.family,
        f"most_frequent_{column}",
        users,
        items,
        [answer] * len(references),
        references,
        baseline=True,
        examples=[("(always the same)", answer, reference) for reference in references[:1]],
    )


def _frequent_choice(dataset: Dataset, result: FamilyResult) -> list[FamilyResult]:
    """Always what most training ratings say; which of yes and no is right is a coin's."""
    references = result.per_user["reference"].to_pylist()
    if not {"like", "dislike"} & set(references):
        return []
    liked = (training_ratings(dataset)[2] >= LIKE_FROM).mean() >= 0.5
    chosen = ["like" if liked else "dislike"] * len(references)
    pairs = _pairs(result)
    return [
        choice_result(
            result.family, "most_frequent_answer", *pairs, chosen, references, baseline=True
        )
    ]


def most_frequent(dataset: Dataset, column: str) -> str:
    """The most frequent text of a training reviews' column; of equals the alphabetically first."""
    train = dataset.reviews["split"].to_numpy() == TRAIN
    texts = dataset.reviews[column].to_pylist()
    counts = Counter(prompt_text(text) for text, kept in zip(texts, train, strict=True) if kept)
    del counts[""]
    return min(counts, key=lambda text: (-counts[text], text)) if counts else ""
