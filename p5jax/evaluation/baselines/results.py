"""What baselines reach on the very examples that a model was evaluated on."""

from __future__ import annotations

import numpy as np

from p5jax.data.dataset import Dataset
from p5jax.evaluation.answer_evaluators import choice_result, rating_result, text_result
from p5jax.evaluation.baselines.ranking import RankingBaselines
from p5jax.evaluation.baselines.reviews import Reviews
from p5jax.evaluation.baselines.stars import means, stars_of_words, user_and_item_bias
from p5jax.evaluation.baselines.texts import leading_words, most_frequent, typical_sentences
from p5jax.evaluation.rank_metrics import LIST_LENGTH
from p5jax.evaluation.ranking_evaluators import ranking_result
from p5jax.evaluation.results import FamilyResult
from p5jax.evaluation.task import RunLike
from p5jax.memory.histories import Histories, ratings_of
from p5jax.memory.memory import Memory
from p5jax.pipeline.batching import padded
from p5jax.prompts.records import LIKE_FROM


def baseline_results(
    run: RunLike, result: FamilyResult, split: str, ranking: RankingBaselines
) -> list[FamilyResult]:
    """The baselines for a model's result, on the same users, items and candidates.

    Catalogue and candidates: `ranking`, those of the run's dataset. Ratings: means of training, the
    biases of user and item and, for prompts that say the review, its words. Text: the most frequent
    training sentence or headline, the typical sentence of an item or of a feature, the first words.
    Like or dislike: always the more frequent one.
    """
    if result.kind == "catalogue":
        return catalogue_baselines(ranking, result, split)
    if result.kind in ("candidates", "yes_no"):
        return _candidates(run, result, split, ranking)
    if result.kind == "rating":
        return _ratings(run, result, split)
    if result.kind == "text":
        return _texts(run, result, split)
    return _frequent_choice(run, result)


def _pairs(result: FamilyResult) -> tuple[np.ndarray, np.ndarray]:
    return result.per_user["user"].to_numpy(), result.per_user["item"].to_numpy()


def catalogue_baselines(
    ranking: RankingBaselines, result: FamilyResult, split: str
) -> list[FamilyResult]:
    """The baselines of a ranking of the whole catalogue, on its users."""
    users, targets = _pairs(result)
    found = []
    for name in ranking.names:
        best = ranking.top_k(name, split, LIST_LENGTH, users)
        lists = [row[row >= 0].tolist() for row in best]
        found.append(
            ranking_result(
                result.family,
                name,
                "catalogue",
                users,
                targets,
                ranking.ranks(name, split, users),
                lists,
                ranking.dataset.num_items,
                baseline=True,
            )
        )
    return found


def memory_baseline(
    dataset: Dataset, memory: Memory, result: FamilyResult, split: str
) -> FamilyResult:
    """A memory alone, on the users of a ranking of the whole catalogue; ties by popularity."""
    users, targets = _pairs(result)
    cases = Histories.of(dataset, split, users)
    known = padded([dataset.history(user, split) for user in users], -1)
    near = memory.beside(cases, known)
    popularity = memory.counts
    popular = np.argsort(-popularity, kind="stable")
    lists = []
    for items, shares, history in zip(near.items, near.shares, known, strict=True):
        order = np.lexsort((items, -popularity[items], -shares))
        best = [item for item in items[order][:LIST_LENGTH] if shares[items == item][0] > 0]
        others = popular[: LIST_LENGTH + len(history)]
        best += others[~np.isin(others, [*best, *history])].tolist()
        lists.append([int(item) for item in best[:LIST_LENGTH]])
    ranks = [
        float(best.index(target)) if target in best else np.inf
        for best, target in zip(lists, targets.tolist(), strict=True)
    ]
    return ranking_result(
        result.family,
        "memory",
        "catalogue",
        users,
        targets,
        np.array(ranks),
        lists,
        dataset.num_items,
        baseline=True,
    )


def _candidates(
    run: RunLike, result: FamilyResult, split: str, ranking: RankingBaselines
) -> list[FamilyResult]:
    dataset, source = run.dataset, next(iter(run.families.values())).source  # all share one
    users, targets = _pairs(result)
    candidates = np.stack([source.frozen_candidates(split, user) for user in users.tolist()])
    found = []
    for name, ranks in ranking.candidate_ranks(split, candidates, users).items():
        lists: list[list[int]] = [[] for _ in users]
        found.append(
            ranking_result(
                result.family,
                name,
                result.kind,
                users,
                targets,
                ranks,
                lists,
                dataset.num_items,
                baseline=True,
                candidates=candidates.shape[1],
            )
        )
    return found


def _says_review(run: RunLike, result: FamilyResult) -> bool:
    """Whether the result's prompt holds the review that it asks about."""
    return "review" in run.families[result.family].template(result.prompt_id).fields


def _ratings(run: RunLike, result: FamilyResult, split: str) -> list[FamilyResult]:
    users, items = _pairs(result)
    answers = result.per_user["reference"].to_numpy()
    predictions = means(run.dataset, users, items)
    predictions["user_and_item_bias"] = user_and_item_bias(run.dataset)(users, items)
    if _says_review(run, result):
        texts = Reviews.of(run.dataset, split).by(users, items).texts("text")
        predictions["ridge_on_review_words"] = stars_of_words(run.dataset)(texts)
    return [
        rating_result(result.family, name, users, items, values, answers, baseline=True)
        for name, values in predictions.items()
    ]


def _texts(run: RunLike, result: FamilyResult, split: str) -> list[FamilyResult]:
    users, items = _pairs(result)
    references = result.per_user["reference"].to_pylist()
    reviews = Reviews.of(run.dataset, split).by(users, items)
    column = "sentence" if result.family == "explanation" else "headline"
    always = most_frequent(run.dataset, column)
    said = {f"most_frequent_{column}": [always] * len(users)}
    if column == "sentence":
        said |= typical_sentences(run.dataset, reviews)
    elif _says_review(run, result):
        said["leading_words_of_review"] = leading_words(run.dataset, reviews)
    return [
        text_result(
            result.family,
            name,
            users,
            items,
            answers,
            references,
            baseline=True,
            examples=[("(without a prompt)", answers[0], references[0])],
        )
        for name, answers in said.items()
    ]


def _frequent_choice(run: RunLike, result: FamilyResult) -> list[FamilyResult]:
    """Always what most training ratings say; which of yes and no is right is a coin's."""
    references = result.per_user["reference"].to_pylist()
    if not {"like", "dislike"} & set(references):
        return []
    liked = (ratings_of(run.dataset, "train")[2] >= LIKE_FROM).mean() >= 0.5
    chosen = ["like" if liked else "dislike"] * len(references)
    users, items = _pairs(result)
    return [
        choice_result(
            result.family, "most_frequent_answer", users, items, chosen, references, baseline=True
        )
    ]
