"""A trained run put to use: recommend, score, explain and generate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.progress import Report
from p5jax.data.dataset import Key, key_list
from p5jax.inference.decoding import beam_search
from p5jax.inference.ranking import Ranking, padded_before
from p5jax.parallel import distributed
from p5jax.parallel.partitioning import enable_compilation_cache
from p5jax.parallel.placing import place_rows, to_host
from p5jax.pipeline.batching import padded
from p5jax.prompts.fields import prompt_text
from p5jax.runs.run import Run
from p5jax.serving.bulk import rank_users
from p5jax.serving.features import Features
from p5jax.serving.question import Case, Question
from p5jax.serving.ranker import Ranker
from p5jax.serving.settings import BULK_DEFAULTS, BulkConfig
from p5jax.serving.views import View, views_of
from p5jax.triggers.prompt import load_triggers

_ANSWER_LENGTH, _ANSWER_BEAM = 64, 4  # of free text
EXPLAINED = 2  # tokens in a row that an explanation does not say twice
ANSWER_BEGINS = 16  # tokens that it may be given to begin with


@dataclass(frozen=True)
class Recommendation:
    """One recommended item: its key and title in the source, and the log-probability of its id.

    With a memory that is the mixed one; see inference.mixing.Mixing.
    """

    item: str
    title: str | None
    log_probability: float


@dataclass(frozen=True)
class Recommended:
    """A user's recommendations, best first; exact: guaranteed to be the model's best.

    With a memory, the best of both.
    """

    items: list[Recommendation]
    exact: bool


@dataclass(frozen=True)
class Scored:
    """An item's log-probability, and its rank, from 1, among all that may be recommended.

    Without a rank where it may not: the asker has it, it is excluded, or it is no candidate.
    """

    item: str
    title: str | None
    log_probability: float
    rank: int | None


class Recommender(Ranker):
    """A run's model behind the questions a user of it asks, by the source's own keys."""

    @staticmethod
    def load(
        run: Run | str | os.PathLike[str], triggers: str | os.PathLike[str] | None = None
    ) -> Recommender:
        """Put a run, or the one in a folder, to use.

        triggers: a folder of trigger tokens whose prompt it is to use. UserError when a folder is
        not of its kind, the run has no checkpoint, or the tokens were found with another model.
        """
        enable_compilation_cache()
        run = run if isinstance(run, Run) else Run.load(run)
        return Recommender(run, load_triggers(triggers, run) if triggers else None)

    def recommend(
        self,
        users: Sequence[Key | Question],
        k: int = BULK_DEFAULTS.k,
        *,
        prompts: Sequence[str] = BULK_DEFAULTS.prompts,
        method: str = BULK_DEFAULTS.method,
        beam: int = BULK_DEFAULTS.beam,
        exact: bool = BULK_DEFAULTS.exact,
        memory: bool = BULK_DEFAULTS.memory,
        exclude_history: bool = BULK_DEFAULTS.exclude_history,
        exclude: Sequence[Key] = (),
    ) -> list[Recommended]:
        """Return each user's k most probable next items, best first, distinct and in the catalogue.

        A user is a key of the dataset, or a Question: a history, candidates, items to exclude.
        The prompt holds the history, as much as prompts had in training. The log-probability
        is the model's, over the full vocabulary (or T5Config.likelihood), for the item's id and
        the end of sequence.
        `method`, `beam` and `exact` are as in inference.ranking.rank; `exclude` names items that
        nobody is to get. Without `prompts` it is the one of the triggers, or else the first that
        an evaluation shows (L-1 or 2-3); of several the probabilities are averaged. The run's
        memory, where jobs.fit_memory has chosen one, is mixed in unless `memory` is False.
        """
        excluded = key_list(exclude, "exclude")
        cases = self.cases([_question(user, excluded) for user in key_list(users, "users")])
        if not cases:
            return []
        config = BulkConfig(
            method=method,
            beam=beam,
            exact=exact,
            memory=memory,
            k=k,
            prompts=self.next_item_prompts(prompts),
            exclude_history=exclude_history,
            batch_size=min(len(cases), BULK_DEFAULTS.batch_size),
        )
        return self.answers(cases, config)

    def cases(self, questions: Sequence[Question]) -> list[Case]:
        """Look questions up in the dataset; UserError for an unknown user or item."""
        return [Case.of(self.run.dataset, question) for question in questions]

    def answers(self, cases: Sequence[Case], config: BulkConfig) -> list[Recommended]:
        """Return what is recommended in each case, `config.batch_size` of them at a time.

        The prompts are those of `config`, one at least.
        """
        self.check_k(config.k)
        found: list[Recommended | None] = [None] * len(cases)
        asked = self.prompted(cases, config.prompts)
        for among in (False, True):
            rows = [row for row, case in enumerate(cases) if (case.candidates is not None) == among]
            for first in range(0, len(rows), config.batch_size):
                batch = rows[first : first + config.batch_size]
                ranking = self.ranked([asked[row] for row in batch], config)
                for row, answer in zip(batch, self.recommended(ranking), strict=True):
                    found[row] = answer
        return [answer for answer in found if answer is not None]

    def recommended(self, ranking: Ranking) -> list[Recommended]:
        """Return rankings by the source's own keys."""
        dataset = self.run.dataset
        return [
            Recommended(
                [
                    Recommendation(dataset.item_keys[item], dataset.titles[item], score)
                    for item, score in zip(items.tolist(), logp.tolist(), strict=True)
                    if item >= 0
                ],
                bool(guaranteed),
            )
            for items, logp, guaranteed in zip(*ranking, strict=True)
        ]

    def recommend_all(
        self,
        out: str | os.PathLike[str],
        config: BulkConfig = BULK_DEFAULTS,
        report: Report = distributed.report,
        shard: str | None = None,
    ) -> None:
        """Write every user's recommendations to a folder of Parquet files; see rank_users."""
        rank_users(self, out, config, report, shard)

    def remember(self, sequences: Sequence[Sequence[Key]]) -> None:
        """Let new interactions enter the memory, from now on, without training.

        sequences: items of one user each, in time order. UserError for an unknown item, and for a
        run without a memory.
        """
        if self.memory is None:
            raise UserError(f"{self.run.path}: has no memory; choose one with p5jax memory")
        index = self.run.dataset.item_index
        new = [[index(item) for item in key_list(each, "sequences")] for each in sequences]
        self._memory = self.memory.remembering(new)

    def score(
        self,
        users: Sequence[Key | Question],
        items: Sequence[Key],
        *,
        prompts: Sequence[str] = BULK_DEFAULTS.prompts,
        memory: bool = BULK_DEFAULTS.memory,
    ) -> np.ndarray:
        """Return the log-probabilities of items as each user's next one: float32 [U, K].

        They are those of `recommend`, exact for any item, also one of the history (of which a
        memory says nothing).
        """
        cases = self.cases([_question(user) for user in key_list(users, "users")])
        asked = self.run.dataset.named_items(key_list(items, "items"), "items")
        if not cases or not asked:
            return np.zeros((len(cases), len(asked)), np.float32)
        names = self.next_item_prompts(prompts)
        config = BulkConfig(
            prompts=names, memory=memory, batch_size=min(len(cases), BULK_DEFAULTS.batch_size)
        )
        prompted = self.prompted(cases, names)
        starts = range(0, len(cases), config.batch_size)
        batches = [prompted[first : first + config.batch_size] for first in starts]
        return np.concatenate([self.scores(batch, np.array(asked), config) for batch in batches])

    def placed(
        self,
        user: Key | Question,
        items: Sequence[Key],
        *,
        prompts: Sequence[str] = BULK_DEFAULTS.prompts,
        memory: bool = BULK_DEFAULTS.memory,
    ) -> list[Scored]:
        """Return the log-probabilities of items, and their ranks in a list of all that
        `recommend` may give this user: in the catalogue, or among the question's candidates."""
        dataset = self.run.dataset
        asked = dataset.named_items(key_list(items, "items"), "items")
        (case,) = self.cases([_question(user)])
        config = BulkConfig(
            method="exact",
            memory=memory,
            k=dataset.num_items,
            prompts=self.next_item_prompts(prompts),
            batch_size=1,
        )
        prompted = self.prompted([case], config.prompts)
        listed = self.ranked(prompted, config).items[0].tolist()
        place = {item: number for number, item in enumerate(listed, 1) if item >= 0}
        scores = self.scores(prompted, np.array(asked, np.int32), config)[0] if asked else ()
        return [
            Scored(dataset.item_keys[item], dataset.titles[item], float(score), place.get(item))
            for item, score in zip(asked, scores, strict=True)
        ]

    def views(
        self,
        user: Key | Question,
        prompts: Sequence[str] = (),
        *,
        beam: int = BULK_DEFAULTS.beam,
    ) -> list[View]:
        """Return what the model reads when it is asked for a user's next items, and where the
        search asks it how ids go on, for each prompt."""
        (case,) = self.cases([_question(user)])
        return views_of(self, case, self.next_item_prompts(prompts), beam)

    @property
    def explains(self) -> bool:
        """Whether the run was trained with explanations."""
        return "explanation" in self.run.manifest["families"]

    def explain(
        self,
        user: Key | Question,
        item: Key,
        *,
        prompt: str | None = None,
        feature: str | None = None,
    ) -> str:
        """Return the model's explanation of an item for a user, by beam search, in which no two
        tokens in a row come twice.

        Without a `prompt` it is the one of the triggers, or else E-1 where a `feature` is asked
        for, or else 3-1 where the run has it and the item a title, or else E-1 where the run has
        it, or else 3-8. feature: the word that a prompt such as E-1 names; None for the one that
        training reviews name most of the item. Of a Question only the user counts: prompts for an
        explanation tell no history.
        """
        dataset = self.run.dataset
        if not self.explains:
            raise UserError(f"{self.run.path}: trained without explanations; the data has none")
        (case,) = self.cases([_question(user)])
        (i,) = dataset.named_items([item], "item")
        family = self.family("explanation")
        wanted = None if feature is None else prompt_text(feature)
        if wanted == "":
            raise UserError(f"feature: found {feature!r}, expected a word")
        # Without a title only a prompt that names the item's id can tell items apart.
        titled = "3-1" in family.templates and dataset.titles[i]
        by_id = "E-1" if "E-1" in family.templates or wanted else "3-8"
        prompt = self.own_prompt("explanation", prompt, by_id if wanted or not titled else "3-1")
        template = family.template(prompt)
        if wanted and "feature" not in template.fields:
            raise UserError(f"feature: found {feature!r}, but prompt {prompt} names none")
        if not wanted and "feature" in template.fields:
            wanted = prompt_text(self._features.of(i))
        inputs = family.inputs_for(prompt, "explanation", case.user, item=i, feature=wanted)
        return self.answer(self.tokens(inputs), template.given({"feature": wanted}), EXPLAINED)

    @cached_property
    def _features(self) -> Features:
        return Features(self.run.dataset)

    def generate(self, text: str) -> str:
        """Return the model's most probable answer to any text, by beam search."""
        return self.answer(self.text_prompt(text))

    def text_prompt(self, text: str) -> list[int]:
        """Return the tokens of any text as a prompt; triggers stand around the text, those of an
        unknown user among them. UserError where there is no text."""
        if not text.strip():
            raise UserError("text: found nothing, expected a prompt")
        if self.triggers:
            vocabulary, slots = self.run.vocabulary, self.triggers.layout.slots
            room = self.run.family_config.max_source - slots - 1
            tokens = vocabulary.encode(text)
            if len(tokens) > room:  # the text is cut, not the triggers behind it
                text = vocabulary.decode(tokens[:room])
            text = self.triggers.around(text, vocabulary)
        return self.tokens(text)

    def answer(self, prompt: list[int], begins: str = "", no_repeat: int = 0) -> str:
        """Return the model's most probable text for a prompt's tokens, by beam search.

        begins: what it begins with, at most ANSWER_BEGINS tokens, and is left out. no_repeat: how
        many tokens in a row it does not say twice, 0 for any.
        """
        run = self.run
        begun = run.vocabulary.encode(begins) if begins else []
        if len(begun) > ANSWER_BEGINS:
            found = f"{begins!r}, {len(begun)} tokens"
            raise UserError(f"feature: found {found}, expected at most {ANSWER_BEGINS}")
        given = padded_before([begun], ANSWER_BEGINS)  # one shape, so one program, for all
        tokens = padded([prompt], least=self.levels.fit(len(prompt)))
        sources = place_rows(run.params, tokens)
        answers, _ = beam_search(
            *(run.model, run.params, sources, _ANSWER_LENGTH, _ANSWER_BEAM),
            given=place_rows(run.params, given),
            no_repeat=no_repeat,
        )
        return run.vocabulary.decode(to_host(answers)[0, 0, len(begun) :].tolist())


def _question(user: Key | Question, exclude: Sequence[Key] = ()) -> Question:
    """The question of a user who is named alone; more items to exclude."""
    question = user if isinstance(user, Question) else Question(user)
    return replace(question, exclude=(*question.exclude, *exclude)) if exclude else question
