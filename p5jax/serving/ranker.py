"""What ranking users' next items takes: a run's prompts, its id tries and what is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from p5jax.core.errors import UserError
from p5jax.evaluation.prompts import next_item_prompt
from p5jax.evaluation.task import kind_of
from p5jax.inference.mixing import Beside
from p5jax.inference.ranking import Asked, Ranking, given_rows, id_trie, rank, score_items
from p5jax.inference.settings import METHODS
from p5jax.inference.trie import Trie
from p5jax.memory.histories import Histories
from p5jax.memory.memory import Memory
from p5jax.pipeline.batching import padded
from p5jax.prompts.families import Family, make_families
from p5jax.runs.run import Run
from p5jax.runs.stored_memory import stored_memory
from p5jax.serving.question import Case
from p5jax.serving.settings import BulkConfig
from p5jax.triggers.layout import PROMPT_ID
from p5jax.triggers.prompt import TriggeredRun, TriggerPrompt

_KNOWN = {"uid", "udesc", "hist", "trigger"}  # what a prompt may say of a user with a history


class Prompt(NamedTuple):
    """What a user is asked: a prompt's tokens, and the text that its answer begins with."""

    tokens: list[int]
    given: str


class Prompted(NamedTuple):
    """A case with the prompts, one or more, whose probabilities are averaged."""

    case: Case
    prompts: tuple[Prompt, ...]


class Levels(NamedTuple):
    """The least widths of what is computed, so that few programs serve all cases.

    source: lengths of prompts, ascending, () for multiples of 32; excluded items, candidates, and
    items that are scored.
    """

    source: tuple[int, ...] = ()
    excluded: int = 1
    candidates: int = 1
    items: int = 1

    def fit(self, length: int) -> int:
        """Return the width of prompts of which the longest has `length` tokens."""
        return next((level for level in self.source if level >= length), length)


class Ranker:
    """A run, and trigger tokens where its prompt is theirs, that ranks items by dataset indices.

    memory: instead of the run's own.
    """

    def __init__(
        self, run: Run, triggers: TriggerPrompt | None = None, memory: Memory | None = None
    ):
        self.run, self.triggers = run, triggers
        self.levels = Levels()
        self._memory = memory
        self._families: dict[str, Family] = {}
        self._tries: dict[tuple[bool, bool], Trie] = {}

    @property
    def memory(self) -> Memory | None:
        """The run's memory, None where p5jax memory has chosen none."""
        if self._memory is None:
            self._memory = stored_memory(self.run)
        return self._memory

    def beside(self, cases: Sequence[Case], left_out: np.ndarray, used: bool) -> Beside | None:
        """Return what the memory, where it is used, says of the next items of histories."""
        if not used or self.memory is None:
            return None
        return self.memory.beside(Histories.given([case.history for case in cases]), left_out)

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
            run = self.run
            self._tries[key] = id_trie(family, prompt, run.vocabulary, method, run.params)
        return self._tries[key]

    def next_item_prompts(self, prompts: Sequence[str]) -> tuple[str, ...]:
        """Return the prompts for a next item: those asked for, the triggers', or else the first
        that an evaluation shows. UserError for one that is asked for twice."""
        if isinstance(prompts, str):
            raise UserError(f"prompts: found {prompts!r}, expected a list of ids")
        if len(set(prompts)) < len(prompts):
            raise UserError(f"prompts: found {', '.join(prompts)}, expected each once")
        if self.triggers or prompts:
            asked = prompts or (None,)
            return tuple(self.own_prompt("sequential", each, otherwise="") for each in asked)
        return (next_item_prompt(self.family("sequential")),)

    def catalogue_prompts(self) -> list[str]:
        """Return the prompts that ask for an item of the whole catalogue, the usual one first."""
        family = self.family("sequential")
        usable = [id for id, each in family.templates.items() if kind_of(each) == "catalogue"]
        usable = [id for id in usable if set(family.template(id).fields) <= _KNOWN]
        (usual,) = self.next_item_prompts(())
        return [usual, *(id for id in usable if id != usual)]

    def prompted(self, cases: Iterable[Case], prompts: Sequence[str]) -> list[Prompted]:
        """Return cases with their prompts for a next item: the evaluation's, but that nothing of
        the history is held out."""
        family, found = self.family("sequential"), []
        for case in cases:
            user, history = case.user, case.history
            asked = []
            for prompt in prompts:
                text = family.inputs_for(prompt, "item", user, history=history)
                asked.append(Prompt(self.tokens(text), family.given(prompt, history)))
            found.append(Prompted(case, tuple(asked)))
        return found

    def tokens(self, text: str) -> list[int]:
        """Return a text's tokens with the end of sequence, cut to the run's longest source."""
        vocabulary, longest = self.run.vocabulary, self.run.family_config.max_source
        return [*vocabulary.encode(text)[: longest - 1], vocabulary.eos_id]

    def excluded(self, cases: Sequence[Case], history: bool) -> np.ndarray:
        """Return items [B, E] not to recommend, padded with -1: blocked ones and the history.

        E is the same for all users of a dataset that block as many.
        """
        rows = [[*case.blocked, *(case.history if history else ())] for case in cases]
        blocked = max(len(case.blocked) for case in cases)
        longest = int(np.diff(self.run.dataset.offsets).max())
        return padded(rows, -1, max(self.levels.excluded, longest + blocked))

    def ranked(self, asked: Sequence[Prompted], config: BulkConfig) -> Ranking:
        """Return the k best items of each case: arrays [B, k].

        They are computed as `config.batch_size` rows, the first ones repeated: one shape for all
        batches. There may be no more cases than that. Either all cases have candidates or none.
        """
        rows = np.resize(np.arange(len(asked)), config.batch_size).tolist()
        cases = [asked[row].case for row in rows]
        exclude = self.excluded(cases, config.exclude_history)
        candidates = None
        if cases[0].candidates is not None:
            chosen = [case.candidates for case in cases if case.candidates is not None]
            candidates = padded(chosen, -1, self.levels.candidates)
        first, *others = self.asked([asked[row] for row in rows], config)
        found = rank(
            self.run.model,
            self.run.params,
            *first[:2],
            config.k,
            config.method,
            given=first.given,
            beam=config.beam,
            exact=config.exact,
            exclude=exclude,
            candidates=candidates,
            beside=self.beside(cases, exclude, config.memory),
            others=others,
        )
        count = len(asked)
        return Ranking(found.items[:count], found.logp[:count], found.exact[:count])

    def scores(
        self, asked: Sequence[Prompted], items: np.ndarray, config: BulkConfig
    ) -> np.ndarray:
        """Return the log-probabilities of items [K] as each case's next one: float32 [B, K].

        They are exact for any item, also one of the history (of which a memory says nothing).
        Computed as `ranked` does.
        """
        rows = [asked[row] for row in np.resize(np.arange(len(asked)), config.batch_size).tolist()]
        cases = [row.case for row in rows]
        first, *others = self.asked(rows, config)
        logp = score_items(
            self.run.model,
            self.run.params,
            *first[:2],
            padded([items] * len(rows), -1, self.levels.items),
            first.given,
            self.beside(cases, self.excluded(cases, history=True), config.memory),
            others,
        )
        return logp[: len(asked), : len(items)]

    def asked(self, rows: Sequence[Prompted], config: BulkConfig) -> Iterator[Asked]:
        """Yield each prompt of `config` as arrays of all rows, with the ids that answer it."""
        for number, name in enumerate(config.prompts):
            prompts = [row.prompts[number] for row in rows]
            longest = max(len(prompt.tokens) for prompt in prompts)
            yield Asked(
                padded([prompt.tokens for prompt in prompts], least=self.levels.fit(longest)),
                self.trie(name, config.method),
                given_rows([each.given for each in prompts], self.run.vocabulary),
            )
