"""P5 as a backbone of PPR: the generator's prefix stands before the embedded input of a frozen T5.

Letters: B batch, S source length, P prefix rows, U users, M attributes, D model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from p5jax.core.errors import UserError, nearest
from p5jax.models.layers import Array
from p5jax.parallel.partitioning import replicated
from p5jax.parallel.placing import mesh_of
from p5jax.ppr.generator import (
    ProfileEmbedder,
    PromptConfig,
    PromptGenerator,
    axes_of,
    fresh_params,
)
from p5jax.ppr.profiles import Profiles
from p5jax.ppr.soft.words import (
    PrefixedTransformer,
    SoftVocabulary,
    rows_of_batch,
    soft_word,
    users_of,
    with_prefix,
)
from p5jax.prompts.families import Family, make_families
from p5jax.prompts.template import PromptTemplate
from p5jax.runs.run import Run
from p5jax.training.step import DeviceBatch, batch_sums
from p5jax.triggers.initial import initial_tokens
from p5jax.triggers.layout import Layout, arguments_template

FAMILY, PROMPT_ID = "sequential", "soft"
ARGUMENTS = "arguments"  # the text of a trigger prompt without its trigger words
TRAINABLE = ("soft/*",)
# Users' first prefixes are the same words and differ by a tenth of what words differ by.
_STDDEV = 0.1


class SoftPrompt(nn.Module):
    """The prefixes of profiles [B, M]: [B, P, D]."""

    config: PromptConfig
    sizes: tuple[int, ...]
    model_dim: int

    def setup(self) -> None:
        self.profile = ProfileEmbedder(self.sizes, self.config.attribute_dim)
        self.generator = PromptGenerator(self.config, 1, self.model_dim, _STDDEV)

    def __call__(self, profiles: Array) -> Array:
        return self.generator(self.profile(profiles))[:, :, 0]


class SoftRun:
    """A frozen run whose sequential family has one prompt, a soft prefix before a text.

    What training, evaluation and ranking need of a run. text: the id of a prompt of the run, or
    "arguments". UserError for any other text, or a model of another width.
    """

    def __init__(self, run: Run, prompt: PromptConfig, profiles: Profiles, text: str, path: Path):
        self.run, self.profiles, self.text, self.path = run, profiles, text, path
        self.dataset = run.dataset
        self.model = PrefixedTransformer(run.model.config)
        self.prompt = SoftPrompt(prompt, profiles.sizes, run.model.config.emb_dim)
        self.vocabulary = SoftVocabulary.of(run.vocabulary, prompt.length)
        self.soft: Any = None  # the prompt's parameters
        self._made: tuple[Any, Any] = None, None  # the last ones and their prefixes

    @property
    def params(self) -> dict[str, Any]:
        """The model's parameters with every user's prefix."""
        if self._made[0] is not self.soft:
            self._made = self.soft, self._prefixes(self.soft)
        return with_prefix(self.run.params, self._made[1])

    @cached_property
    def _prefixes(self) -> Callable[[Any], Any]:
        """The function that makes all users' prefixes [U, P, D] of the prompt's parameters."""
        mesh = mesh_of(self.run.params)

        def make(soft: Any) -> Any:
            return self.prompt.apply({"params": soft}, self.profiles.codes_UxM)

        return jax.jit(make, out_shardings=replicated(mesh) if mesh else None)

    @cached_property
    def families(self) -> dict[str, Family]:
        """The sequential family with the soft prompt; texts are as long as without a prefix."""
        run = self.run
        prompt = PromptTemplate(PROMPT_ID, FAMILY, f"{{trigger}} {self._inputs}", "{item}")
        config = replace(
            run.family_config, max_source=run.family_config.max_source + self.vocabulary.length
        )
        words = [soft_word(user) for user in range(run.dataset.num_users)]
        templates = {PROMPT_ID: prompt}
        return make_families(run.dataset, templates, self.vocabulary, config, (FAMILY,), words)

    @property
    def _inputs(self) -> str:
        if self.text == ARGUMENTS:
            return arguments_template(FAMILY).inputs
        usable = {
            id: t.inputs
            for id, t in self.run.templates.items()
            if t.family == FAMILY and t.target_fields == ("item",) and "cand" not in t.fields
        }
        if self.text not in usable:
            raise UserError(
                f"text: found {self.text!r}, expected {ARGUMENTS} or one of"
                f" {', '.join(usable)}{nearest(self.text, usable)}"
            )
        return usable[self.text]

    def initial(self, seed: int) -> dict[str, Any]:
        """The prompt's first parameters: all prefixes are about the same random words."""
        params = fresh_params(self.prompt, jax.random.key(seed), self.profiles.codes_UxM[:1])
        layout = Layout(self.prompt.config.length)
        words = initial_tokens(self.run, layout, "random", seed)
        table = np.asarray(self.run.params["token_embedder"]["embedding"])
        params["generator"]["mlp"]["w2"]["bias"] = table[words].reshape(-1)
        return params

    def axes(self) -> dict[str, Any]:
        """The logical axes of the prompt's parameters."""
        return axes_of(self.prompt, self.profiles.codes_UxM[:1])

    def objective(self) -> Any:
        """The T5's ordinary loss, a function of {"t5", "soft"}, a batch and an rng.

        The frozen model is read as it is used, without dropout.
        """
        return partial(_batch_sums, self.model, self.prompt, self.profiles.codes_UxM)


def _batch_sums(
    model: PrefixedTransformer,
    prompt: SoftPrompt,
    codes_UxM: np.ndarray,
    params: Any,
    batch: DeviceBatch,
    rng: jax.Array | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    tokens, words = batch["encoder_input_tokens"], model.config.vocab_size
    length = prompt.config.length
    codes = jax.numpy.asarray(codes_UxM)[users_of(tokens, words, length)]
    prefix: Any = prompt.apply({"params": params["soft"]}, codes)
    batch = {**batch, "encoder_input_tokens": rows_of_batch(tokens, words, length)}
    return batch_sums(model, with_prefix(params["t5"], prefix), batch, None)
