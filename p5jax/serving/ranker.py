"""What ranking users' next items takes: a run's prompts, its id tries and what is left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from p5jax.core.errors import UserError
from p5jax.evaluation.evaluators import next_item_prompt
from p5jax.inference.mixing import Beside
from p5jax.inference.ranking import Ranking, given_rows, id_trie, rank
from p5jax.inference.settings import METHODS
from p5jax.inference.trie import Trie
from p5jax.memory.histories import Histories
from p5jax.memory.memory import Memory
from p5jax.pipeline.batching import padded
from p5jax.prompts.families import Family, make_families
from p5jax.runs.run import Run
from p5jax.runs.stored_memory import stored_memory
from p5jax.serving.settings import BulkConfig
from p5jax.triggers.layout import PROMPT_ID
from p5jax.triggers.prompt import TriggeredRun, TriggerPrompt


class Prompt(NamedTuple):
    """What a user is asked: a prompt's tokens, and the text that its answer begins with."""

    tokens: list[int]
    given: str


class Ranker:
    """A run, and trigger tokens where its prompt is theirs, that ranks items by dataset indices."""

    def __init__(self, run: Run, triggers: TriggerPrompt | None = None):
        self.run, self.triggers = run, triggers
        self._memory: Memory | None = None
        self._families: dict[str, Family] = {}
        self._tries: dict[tuple[bool, bool], Trie] = {}

    @property
    def memory(self) -> Memory | None:
        """The run's memory, None where p5jax memory has chosen none."""
        if self._memory is None:
            self._memory = stored_memory(self.run)
        return self._memory

    def beside(self, users: Sequence[int], left_out: np.ndarray, used: bool) -> Beside | None:
        """Return what the memory, where it is used, says of the users' next items."""
        if not used or self.memory is None:
            return None
        return self.memory.beside(Histories.whole(self.run.dataset).of_users(users), left_out)

    def family(self, name: str) -> Family:
        """Return a family's prompts, the triggers' among them, as an evaluation has them."""
        if name not in self._families:
            run = self.run
            if self.triggers and self.triggers.family == name:
                self._families |= TriggeredRun(run, self.triggers, run.path).families
            else:
                self._families |= make_families(
                    run.dataset, run.templates, run.vocabulary, run.family_config, (name,)
                )
        return self._families[name]

    def own_prompt(self, family: str, prompt: str | None, otherwise: str) -> str:
        """Return the prompt asked for, else the triggers', else another.

        UserError when there is a prompt beside triggers, or these are of another family.
        """
        if not self.triggers:
            return prompt or otherwise
        if prompt:
            raise UserError(f"prompt {prompt!r}: found it beside triggers, expected either")
        if self.triggers.family != family:
            raise UserError(f"triggers: found a {self.triggers.family} prompt, expected {family}")
        return PROMPT_ID

    def check_k(self, k: int) -> None:
        """Raise UserError unless the catalogue has k items."""
        if not 1 <= k <= self.run.dataset.num_items:
            items = self.run.dataset.num_items
            raise UserError(f"k: found {k}, expected 1 to {items}, the size of the catalogue")

    def trie(self, prompt: str, method: str) -> Trie:
        """Return the trie of the item ids that a ranking method searches for a prompt's answer."""
        family = self.family("sequential")
        key = family.lists(prompt), METHODS[method].textbook
        if key not in self._tries:
            self._tries[key] = id_trie(family, prompt, self.run.vocabulary, method)
        return self._tries[key]

    def next_item_prompt(self, prompt: str | None) -> str:
        """Return the prompt for a next item: the one asked for, the triggers', or else the first
        that an evaluation shows."""
        if self.triggers or prompt:
            return self.own_prompt("sequential", prompt, otherwise="")
        return next_item_prompt(self.family("sequential"), "test")

    def history_prompts(self, users: Iterable[int], prompt: str) -> list[Prompt]:
        """Return the users' prompts for a next item: the evaluation's, but that nothing of the
        history is held out."""
        family, prompts = self.family("sequential"), []
        for user in users:
            history = self.run.dataset.sequence(user)
            text = family.inputs_for(prompt, "item", user, history=history)
            prompts.append(Prompt(self.tokens(text), family.given(prompt, history)))
        return prompts

    def tokens(self, text: str) -> list[int]:
        """Return a text's tokens with the end of sequence, cut to the run's longest source."""
        vocabulary, longest = self.run.vocabulary, self.run.family_config.max_source
        return [*vocabulary.encode(text)[: longest - 1], vocabulary.eos_id]

    def excluded(
        self, users: Iterable[int], history: bool, blocked: Sequence[int] = ()
    ) -> np.ndarray:
        """Return items [B, E] not to recommend, padded with -1: blocked ones and the history.

        E is the same for all users of a dataset.
        """
        sequence, longest = self.run.dataset.sequence, int(np.diff(self.run.dataset.offsets).max())
        rows = [[*blocked, *(sequence(user) if history else ())] for user in users]
        return padded(rows, -1, longest + len(blocked))

    def ranked(
        self,
        users: Sequence[int],
        prompts: Sequence[Prompt],
        config: BulkConfig,
        blocked: Sequence[int] = (),
    ) -> Ranking:
        """Return the k best items of each user, whose prompts are given: arrays [B, k].

        They are computed as `config.batch_size` rows, the first ones repeated: one shape for all
        batches. There may be no more users than that.
        """
        count = len(users)
        rows = np.resize(np.arange(count), config.batch_size).tolist()
        asked = [users[row] for row in rows]
        exclude = self.excluded(asked, config.exclude_history, blocked)
        assert config.prompt is not None
        found = rank(
            self.run.model,
            self.run.params,
            padded([prompts[row].tokens for row in rows]),
            self.trie(config.prompt, config.method),
            config.k,
            config.method,
            given=given_rows([prompts[row].given for row in rows], self.run.vocabulary),
            beam=config.beam,
            exact=config.exact,
            exclude=exclude,
            beside=self.beside(asked, exclude, config.memory),
        )
        return Ranking(found.items[:count], found.logp[:count], found.exact[:count])
