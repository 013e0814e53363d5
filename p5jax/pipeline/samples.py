"""The samples of the training stream: which example is at each position, rendered and tokenised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from p5jax.core.errors import UserError
from p5jax.data.families import FAMILIES
from p5jax.pipeline.batching import Tokens
from p5jax.pipeline.mixture import Mixture
from p5jax.prompts.sampling import example_rng
from p5jax.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from p5jax.pipeline.config import PipelineConfig
    from p5jax.prompts.families import Example, Family


class Samples(Protocol):
    """The stream's examples as tokens, at any position."""

    @property
    def period(self) -> int | None:
        """After how many samples the first comes again; None: never."""

    def __call__(self, start: int, count: int) -> list[Tokens]:
        """Return samples start ... start + count - 1."""


class RenderedSamples:
    """Samples that are rendered when they are asked for; `users`: with the user of each."""

    period = None

    def __init__(
        self,
        families: Mapping[str, Family],
        vocabulary: Vocabulary,
        config: PipelineConfig,
        users: bool = False,
    ):
        sizes = {name: family.size("train") for name, family in families.items()}
        self.families = dict(families)
        self.vocabulary = vocabulary
        self.config = config
        self.users = users
        self.mixture = Mixture(sizes, config.rates, config.seed)

    @property
    def epoch(self) -> int:
        """The samples of an epoch: as many as the mixture's families have training examples."""
        return sum(self.mixture.sizes)

    def identity(self) -> dict[str, Any]:
        """Return, JSON-able, what decides the tokens at every position."""
        mixture, config = self.mixture, self.config
        families = [self.families[name] for name in mixture.names]
        return {
            "seed": config.seed,
            "source_length": config.source_lengths[-1],
            "target_length": config.target_length,
            "vocabulary": self.vocabulary.fingerprint,
            **families[0].source.identity(),  # all families of a dataset share one
            "families": {
                family.name: {
                    "examples": size,
                    "rate": f"{share} of {sum(mixture.shares)}",
                    "templates": family.templates_fingerprint,
                }
                for family, size, share in zip(families, mixture.sizes, mixture.shares, strict=True)
            },
        }

    def __call__(self, start: int, count: int) -> list[Tokens]:
        tokens = []
        for name, epoch, index in self.mixture.samples(start, count):
            rng = example_rng(self.config.seed, epoch, name, index)
            example = self.families[name].example("train", index, rng)
            sample = tokenise(example, self.vocabulary, self.config)
            tokens.append(sample._replace(user=example.user) if self.users else sample)
        return tokens


def tokenise(example: Example, vocabulary: Vocabulary, config: PipelineConfig) -> Tokens:
    """Encode an example, end-of-sequence on both sides; UserError as the two functions below."""
    source = encoded_source(example, vocabulary, config.source_lengths[-1])
    return encoded_target(example, vocabulary, config.target_length)._replace(source=source)


def encoded_target(example: Example, vocabulary: Vocabulary, longest: int) -> Tokens:
    """Encode an example's target alone, cut to `longest` tokens.

    UserError for one with a list of items that is longer, which would lose what comes last, and
    where nothing would be left of a text but what is given.
    """
    tokens = vocabulary.encode(example.targets)
    given = len(vocabulary.encode(example.given)) if example.given else 0
    if (example.listed or given) and len(tokens) >= longest:
        may_be_cut = FAMILIES[example.family].writes and given + 1 < longest
        if not may_be_cut:
            found = f"prompt {example.prompt_id}: found an answer of {len(tokens) + 1} tokens"
            raise UserError(
                f"{found}, expected at most {longest}; set FamilyConfig.max_history or longer"
                " PipelineConfig.target_lengths"
            )
    target = np.array([*tokens[: longest - 1], vocabulary.eos_id], np.int32)
    return Tokens(np.zeros(0, np.int32), target, given, example.listed)


def encoded_source(example: Example, vocabulary: Vocabulary, longest: int) -> np.ndarray:
    """Encode an example's source [s] int32; UserError when it has more than `longest` tokens."""
    tokens = vocabulary.encode(example.inputs)
    if len(tokens) >= longest:
        raise UserError(
            f"prompt {example.prompt_id}: found {len(tokens) + 1} tokens,"
            f" expected at most {longest}"
        )
    return np.array([*tokens, vocabulary.eos_id], np.int32)
