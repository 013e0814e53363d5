"""One family's prompt to be evaluated on one split, and what evaluators share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.progress import Progress, Report
from p5jax.core.shard import Shard
from p5jax.data.dataset import Dataset
from p5jax.data.families import FAMILIES
from p5jax.evaluation.results import WITH_MEMORY
from p5jax.evaluation.settings import EvaluationConfig
from p5jax.inference.mixing import Beside
from p5jax.memory.histories import Histories
from p5jax.memory.memory import Memory
from p5jax.models.t5 import Transformer
from p5jax.parallel.partitioning import DATA
from p5jax.parallel.placing import mesh_of
from p5jax.pipeline.batching import padded
from p5jax.pipeline.iterator import eval_batches
from p5jax.prompts.families import Example, Family
from p5jax.prompts.template import PromptTemplate
from p5jax.text.vocabulary import Vocabulary

AVERAGED = "+"  # between prompts in the name of their average
_SOURCE_LENGTHS = (32, 64, 128, 256)  # shorter static shapes than the longest source


class RunLike(Protocol):
    """What an evaluation needs of a run."""

    @property
    def path(self) -> Path: ...
    @property
    def dataset(self) -> Dataset: ...
    @property
    def vocabulary(self) -> Vocabulary: ...
    @property
    def model(self) -> Transformer: ...
    @property
    def params(self) -> Any: ...
    @property
    def families(self) -> Mapping[str, Family]: ...


@runtime_checkable
class ReadsUsers(Protocol):
    """A run whose model reads something of each source's user before the source."""

    def sources(self, tokens: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Return what the model reads, int32 [B, S'], of sources [B, S] and their users [B]."""


def kind_of(template: PromptTemplate) -> str:
    """How a prompt is judged: a key of the evaluators."""
    targets, among = template.asks_for, FAMILIES[template.family].among_candidates
    if "item" in targets:
        listed = among or "cand" in template.fields
        return "candidates" if listed else "catalogue"
    if "yes_no" in targets and among:
        return "yes_no"
    if "explanation" in targets or "headline" in targets:
        return "text"
    return "rating" if "rating" in targets else "choice"


@dataclass(frozen=True)
class Task:
    """A prompt of a family on a split, for the examples at `indices`."""

    run: RunLike
    family: Family
    template: PromptTemplate
    split: str
    indices: np.ndarray
    config: EvaluationConfig
    report: Report
    memory: Memory | None = None  # beside the model, where a catalogue is ranked
    others: tuple[PromptTemplate, ...] = ()  # whose probabilities are averaged with the template's
    candidates_of: str = ""  # another family, whose candidates the prompt ranks

    @property
    def about(self) -> str:
        """The family that the results are about."""
        return self.candidates_of or self.family.name

    @property
    def kind(self) -> str:
        """How the prompt is judged."""
        return "candidates" if self.candidates_of else kind_of(self.template)

    def share(self, shard: Shard | None) -> Task:
        """The task for a shard of the examples; UserError where there are fewer than shards."""
        if shard is None:
            return self
        if len(self.indices) < shard.count:
            found = f"{len(self.indices)} examples of prompt {self.template.id}"
            raise UserError(f"shard: found {found}, expected one or more for each of {shard.count}")
        return replace(self, indices=self.indices[shard.number - 1 :: shard.count])

    @property
    def label(self) -> str:
        """What results call the prompt, or the prompts that are averaged, and the memory."""
        prompts = AVERAGED.join(template.id for template in (self.template, *self.others))
        return f"{prompts}{WITH_MEMORY if self.memory else ''}"

    def batches(
        self,
        examples: Iterable[Example] | None = None,
        total: int = 0,
        batch_size: int = 0,
        shortest: int = 64,
    ) -> Iterator[tuple[list[Example], np.ndarray]]:
        """Yield (examples, tokens int32 [B, S]), padded below, and report the progress.

        `examples` are the task's own unless others (`total` of them) are given; B is `batch_size`,
        or the configuration's, for each data group of the run's mesh. Each S is compiled once;
        `shortest` is the least one.
        """
        if examples is None:
            examples, total = self.examples(), len(self.indices)
        longest = self.family.source.config.max_source
        lengths = (*(n for n in _SOURCE_LENGTHS if shortest <= n < longest), longest)
        progress = Progress(f"{self.family.name} {self.label}", "examples", total, self.report)
        mesh = mesh_of(self.run.params)
        size = (batch_size or self.config.batch_size) * (mesh.shape[DATA] if mesh else 1)
        for batch, tokens in eval_batches(examples, self.run.vocabulary, size, lengths):
            if isinstance(self.run, ReadsUsers):
                users = np.zeros(len(tokens), np.int32)  # 0 in rows of padding
                users[: len(batch)] = [example.user for example in batch]
                tokens = self.run.sources(tokens, users)
            yield batch, tokens
            progress.add(len(batch))

    def histories(self, users: np.ndarray | Sequence[int]) -> np.ndarray:
        """Return what users [U] have before the split's target: items [U, E], -1 below.

        E is the same for all users of a dataset: one static shape.
        """
        dataset = self.run.dataset
        longest = int(np.diff(dataset.offsets).max())
        return padded([dataset.history(user, self.split) for user in users], -1, longest)

    def cases(self, users: np.ndarray | Sequence[int]) -> Histories:
        """Return what users [U] have before the split's target, and the target."""
        return Histories.of(self.run.dataset, self.split, users)

    def beside(self, users: np.ndarray | Sequence[int], left_out: np.ndarray) -> Beside | None:
        """Return what the memory, if there is one, says of the next items of users [U]."""
        return self.memory.beside(self.cases(users), left_out) if self.memory else None

    def examples(self) -> Iterator[Example]:
        """Yield the task's own examples."""
        for index in self.indices.tolist():
            yield self.family.example(self.split, index, prompt_id=self.template.id)


def chosen_indices(size: int, limit: int | None, seed: int) -> np.ndarray:
    """Return a sample of at most `limit` of `size` examples, ascending.

    Smaller limits give subsets of larger ones, and every prompt and run gets the same users.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit: found {limit}, expected at least 1")
    if limit is None or limit >= size:
        return np.arange(size)
    return np.sort(np.random.default_rng(seed).permutation(size)[:limit])
