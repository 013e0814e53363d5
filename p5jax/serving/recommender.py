"""A trained run put to use: recommend, score, explain and generate."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.progress import Report
from p5jax.data.dataset import Key, key_list
from p5jax.inference.decoding import beam_search
from p5jax.inference.ranking import given_rows, score_items
from p5jax.parallel import distributed
from p5jax.parallel.partitioning import enable_compilation_cache
from p5jax.parallel.placing import place_rows, to_host
from p5jax.pipeline.batching import padded
from p5jax.runs.run import Run
from p5jax.serving.bulk import rank_users
from p5jax.serving.ranker import Prompt, Ranker
from p5jax.serving.settings import BULK_DEFAULTS, BulkConfig
from p5jax.triggers.prompt import load_triggers

_ANSWER_LENGTH, _ANSWER_BEAM = 64, 4  # of free text


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
        users: Sequence[Key],
        k: int = BULK_DEFAULTS.k,
        *,
        prompt: str | None = BULK_DEFAULTS.prompt,
        method: str = BULK_DEFAULTS.method,
        beam: int = BULK_DEFAULTS.beam,
        exact: bool = BULK_DEFAULTS.exact,
        memory: bool = BULK_DEFAULTS.memory,
        exclude_history: bool = BULK_DEFAULTS.exclude_history,
        exclude: Sequence[Key] = (),
    ) -> list[Recommended]:
        """Return each user's k most probable next items, best first, distinct and in the catalogue.

        The prompt holds the user's history, as much as prompts had in training. The log-probability
        is the model's, over the full vocabulary, for the item's id and the end of sequence.
        `method`, `beam` and `exact` are as in inference.ranking.rank; `exclude` names items that
        nobody is to get. Without a `prompt` it is the one of the triggers, or else the first that
        an evaluation shows (L-1 or 2-3). The run's memory, where jobs.fit_memory has chosen one, is
        mixed in unless `memory` is False.
        """
        dataset = self.run.dataset
        indices = [dataset.user_index(user) for user in key_list(users, "users")]
        blocked = [dataset.item_index(item) for item in key_list(exclude, "exclude")]
        if not indices:
            return []
        self.check_k(k)
        config = BulkConfig(
            method=method,
            beam=beam,
            exact=exact,
            memory=memory,
            k=k,
            prompt=self.next_item_prompt(prompt),
            exclude_history=exclude_history,
            batch_size=min(len(indices), BULK_DEFAULTS.batch_size),
        )
        recommended = []
        for batch, prompts in self._batches(indices, config):
            found = self.ranked(batch, prompts, config, blocked)
            for items, logp, guaranteed in zip(found.items, found.logp, found.exact, strict=True):
                pairs = zip(items.tolist(), logp.tolist(), strict=True)
                recommended.append(
                    Recommended(
                        [
                            Recommendation(dataset.item_keys[item], dataset.titles[item], score)
                            for item, score in pairs
                            if item >= 0
                        ],
                        bool(guaranteed),
                    )
                )
        return recommended

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
        users: Sequence[Key],
        items: Sequence[Key],
        *,
        prompt: str | None = BULK_DEFAULTS.prompt,
        memory: bool = BULK_DEFAULTS.memory,
    ) -> np.ndarray:
        """Return the log-probabilities of items as each user's next one: float32 [U, K].

        They are those of `recommend`, exact for any item, also one of the history (of which a
        memory says nothing).
        """
        dataset = self.run.dataset
        indices = [dataset.user_index(user) for user in key_list(users, "users")]
        asked = np.array([dataset.item_index(item) for item in key_list(items, "items")], np.int32)
        if not indices or not len(asked):
            return np.zeros((len(indices), len(asked)), np.float32)
        name = self.next_item_prompt(prompt)
        config = BulkConfig(prompt=name, batch_size=min(len(indices), BULK_DEFAULTS.batch_size))
        rows = []
        for batch, prompts in self._batches(indices, config):
            rows_of = [row % len(batch) for row in range(config.batch_size)]
            asking = [batch[row] for row in rows_of]
            beside = self.beside(asking, self.excluded(asking, history=True), memory)
            logp = score_items(
                self.run.model,
                self.run.params,
                padded([prompts[row].tokens for row in rows_of]),
                self.trie(name, config.method),
                np.tile(asked, (config.batch_size, 1)),
                given_rows([prompts[row].given for row in rows_of], self.run.vocabulary),
                beside,
            )
            rows.append(logp[: len(batch)])
        return np.concatenate(rows)

    def _batches(
        self, users: Sequence[int], config: BulkConfig
    ) -> Iterator[tuple[Sequence[int], list[Prompt]]]:
        """Yield at most `batch_size` users at a time, and their prompts."""
        assert config.prompt is not None
        prompts = self.history_prompts(users, config.prompt)
        for first in range(0, len(users), config.batch_size):
            rows = slice(first, first + config.batch_size)
            yield users[rows], prompts[rows]

    def explain(self, user: Key, item: Key, *, prompt: str | None = None) -> str:
        """Return the model's explanation of an item for a user, by beam search.

        Without a `prompt` it is the one of the triggers, or else 3-1, or 3-8 where the item has no
        title.
        """
        dataset = self.run.dataset
        if "explanation" not in self.run.manifest["families"]:
            raise UserError(f"{self.run.path}: trained without explanations; the data has none")
        u, i = dataset.user_index(user), dataset.item_index(item)
        # Without a title only a prompt that names the item's id can tell items apart.
        prompt = self.own_prompt("explanation", prompt, "3-1" if dataset.titles[i] else "3-8")
        family = self.family("explanation")
        return self._answer(self.tokens(family.inputs_for(prompt, "explanation", u, item=i)))

    def generate(self, text: str) -> str:
        """Return the model's most probable answer to any text, by beam search."""
        return self._answer(self.text_prompt(text))

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

    def _answer(self, prompt: list[int]) -> str:
        run = self.run
        sources = place_rows(run.params, padded([prompt]))
        answers, _ = beam_search(run.model, run.params, sources, _ANSWER_LENGTH, _ANSWER_BEAM)
        return run.vocabulary.decode(to_host(answers)[0, 0].tolist())
