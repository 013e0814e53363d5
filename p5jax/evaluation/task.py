"""One family's prompt to be evaluated on one split, and what evaluators share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from p5jax.core.errors import UserError
from p5jax.core.progress import Progress, Report
from p5jax.data.dataset import Dataset
from p5jax.inference.settings import check_settings
from p5jax.models.t5 import Transformer
from p5jax.parallel.partitioning import DATA
from p5jax.parallel.placing import mesh_of
from p5jax.pipeline.iterator import eval_batches
from p5jax.prompts.families import Example, Family
from p5jax.prompts.template import PromptTemplate
from p5jax.text.vocabulary import Vocabulary

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


@dataclass(frozen=True)
class EvaluationConfig:
    """How much work an evaluation does.

    method, beam, exact: how the catalogue is ranked (see inference.ranking.rank; P5 used a beam of
    20; an under-trained model needs more).
    batch_size: rows of a batch, for each data group of the run's mesh.
    yes_no_users: at most so many users in prompts that ask about every candidate on its own,
    a subset of those of the other prompts. max_length: of generated text, in tokens.
    """

    batch_size: int = 16
    method: str = "certified"
    beam: int = 64
    exact: bool = False
    yes_no_users: int = 200
    max_length: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "beam", "yes_no_users", "max_length"):
            if getattr(self, name) < 1:
                found = getattr(self, name)
                raise UserError(f"EvaluationConfig.{name}: found {found}, expected at least 1")
        check_settings(1, self.beam, self.method, self.exact)


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
        progress = Progress(
            f"{self.family.name} {self.template.id}", "examples", total, self.report
        )
        mesh = mesh_of(self.run.params)
        size = (batch_size or self.config.batch_size) * (mesh.shape[DATA] if mesh else 1)
        for batch, tokens in eval_batches(examples, self.run.vocabulary, size, lengths):
            yield batch, tokens
            progress.add(len(batch))

    def examples(self) -> Iterator[Example]:
        """Yield the task's own examples."""
        for index in self.indices.tolist():
            yield self.family.example(self.split, index, prompt_id=self.template.id)


def chosen_indices(size: int, limit: int | None, seed: int) -> np.ndarray:
    """Draw at most `limit` of `size` examples, ascending.

    Smaller limits give subsets of larger ones, and every prompt and run gets the same users.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit: found {limit}, expected at least 1")
    if limit is None or limit >= size:
        return np.arange(size)
    return np.sort(np.random.default_rng(seed).permutation(size)[:limit])
