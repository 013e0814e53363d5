"""What a search does not change: the frozen model, and the examples that tokens are tried on."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from p5jax.core.errors import UserError
from p5jax.evaluation.task import chosen_indices
from p5jax.parallel.placing import to_host
from p5jax.prompts.families import Example, example_rng, make_families
from p5jax.runs.run import Run
from p5jax.triggers.gradients import Gradients, best_tokens, total_gradients
from p5jax.triggers.initial import initial_tokens
from p5jax.triggers.layout import PROMPT_ID
from p5jax.triggers.open_prompts import OpenPrompts, open_prompts
from p5jax.triggers.prompt import TriggerPrompt, run_fingerprints
from p5jax.triggers.settings import SearchConfig
from p5jax.triggers.surrogate import Surrogate
from p5jax.triggers.templates import arguments_template

_MAX_TARGET = 64


class Problem:
    """One search's examples, candidates and values; UserError for settings that do not fit the run.

    validation: the examples that shared tokens are judged by, N of them; search_half: bool [N],
    those of the users that candidates compete on.
    """

    def __init__(self, run: Run, config: SearchConfig):
        if config.family not in run.manifest["families"]:
            raise UserError(f"family: this run was not trained on {config.family}")
        run.dataset.refuse_nothing_held_out()
        self.run, self.config = run, config
        longest = run.family_config.max_source - config.layout.slots
        self.family = make_families(
            run.dataset,
            {PROMPT_ID: arguments_template(config.family)},
            run.vocabulary,
            replace(run.family_config, max_source=longest),
            (config.family,),
        )[config.family]
        self.validation = self._validation()
        self.surrogate = Surrogate(run, self.family, config.surrogate)
        self.allowed = run.vocabulary.trigger_tokens
        self.embeddings = run.params["token_embedder"]["embedding"]
        words = int(self.allowed.sum())
        if config.candidates >= words:
            raise UserError(
                f"candidates: found {config.candidates}, expected fewer than the {words} words of"
                " the vocabulary"
            )
        self.search_half = self._search_half()
        if not config.any_improvement and self.search_half.all():
            raise UserError("users: found one validation user, expected 2 or accept_level 1")

    def initial_prompt(self) -> TriggerPrompt:
        """The prompt that the search starts from."""
        run, config, layout = self.run, self.config, self.config.layout
        tokens = initial_tokens(run, layout, config.initial, config.seed)
        default = tokens[layout.task_tokens :]
        return TriggerPrompt(
            config.family,
            layout,
            tokens[: layout.task_tokens],
            default,
            np.tile(default, (run.dataset.num_users, 1)),
            run_fingerprints(run),
        )

    # ---- examples ----

    def _validation(self) -> OpenPrompts:
        size = self.family.size("validation", PROMPT_ID)
        if not size:
            raise UserError(f"family: {self.config.family} has no validation example here")
        indices = chosen_indices(size, self.config.users or None, self.config.seed)
        return self.opened(
            [self.family.example("validation", i, prompt_id=PROMPT_ID) for i in indices.tolist()]
        )

    def _search_half(self) -> np.ndarray:
        users = np.unique(self.validation.users)
        order = np.random.default_rng([self.config.seed, 1]).permutation(users)
        return np.isin(self.validation.users, order[: -(-len(order) // 2)])

    @property
    def judging(self) -> np.ndarray:
        """The validation examples that no candidate was chosen by, if there are any: bool [N]."""
        everyone = self.config.any_improvement or not self.config.layout.task_tokens
        return np.full(len(self.validation), True) if everyone else ~self.search_half

    def opened(self, examples: list[Example]) -> OpenPrompts:
        """Examples of this search's family, with its layout's open positions."""
        run, layout = self.run, self.config.layout
        return open_prompts(examples, run.vocabulary, layout, run.dataset, _MAX_TARGET)

    def training_example(self, index: int, epoch: int) -> Example:
        """A training example's arguments, as sampled in that epoch."""
        rng = example_rng(self.config.seed, epoch, self.config.family, index)
        return self.family.example("train", index, rng, PROMPT_ID)

    def training_sample(self, round: int, rng: np.random.Generator) -> OpenPrompts:
        """The training examples that a round's gradient comes from."""
        size = self.family.size("train", PROMPT_ID)
        indices = rng.integers(size, size=min(size, self.config.gradient_examples)).tolist()
        return self.opened([self.training_example(index, round) for index in indices])

    @cached_property
    def evidence(self) -> OpenPrompts:
        """Training examples of the validation users: at most `config.evidence` of each user, the
        last ones, all of different items."""
        owners = self.family.users("train", PROMPT_ID)
        known = np.isin(owners, self.validation.users)
        found: dict[int, dict[int, Example]] = {}
        for row in np.flatnonzero(known)[::-1].tolist():
            own = found.setdefault(int(owners[row]), {})
            if len(own) < self.config.evidence:
                example = self.training_example(row, 0)
                own.setdefault(example.item, example)
        return self.opened([example for own in found.values() for example in own.values()])

    @property
    def own_examples(self) -> OpenPrompts:
        """What users choose their tokens by: their evidence, or the validation split where any
        improvement on it counts."""
        return self.validation if self.config.any_improvement else self.evidence

    # ---- candidates and values ----

    def gradients(self, prompt: TriggerPrompt, examples: OpenPrompts) -> Gradients[np.ndarray]:
        """The loss gradients at a prompt's slots, of all examples and of each user's."""
        run, own = self.run, self.config.layout.user_tokens
        slots = prompt.slots(examples.users)
        users = run.dataset.num_users
        return total_gradients(run.model, run.params, examples, slots, users, own, run.children)

    def candidates(self, gradients: np.ndarray, current: np.ndarray, passed: int = 0) -> np.ndarray:
        """The tokens to try where the gradient is [N, D] and the token is [N]: [N, K].

        They are the best after the `passed` times K that were tried before, all over again when
        the vocabulary has no more.
        """
        count = self.config.candidates
        first = passed % ((int(self.allowed.sum()) - 1) // count) * count
        best: np.ndarray = to_host(
            best_tokens(gradients, self.embeddings, self.allowed, current, first + count)
        )
        return best[:, first:]

    def values(self, prompt: TriggerPrompt, rows: np.ndarray | None = None) -> np.ndarray:
        """The values of validation examples `rows` [M], by default all, under a prompt: [M]."""
        rows = np.arange(len(self.validation)) if rows is None else rows
        slots = prompt.slots(self.validation.users[rows])
        return self.surrogate.values(self.validation, rows, slots)

    def values_with(
        self,
        prompt: TriggerPrompt,
        slot: int,
        tokens: np.ndarray,
        examples: OpenPrompts,
        rows: np.ndarray,
    ) -> np.ndarray:
        """The values of examples `rows` [M] under a prompt with tokens [M] in one slot: [M]."""
        slots = prompt.slots(examples.users[rows])
        slots[:, slot] = tokens
        return self.surrogate.values(examples, rows, slots)
