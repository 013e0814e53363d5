"""P5 as a backbone of PPR: a soft prefix from the generator before the input of a frozen T5.

Letters: B batch, S source length, P prefix rows, U users, M attributes, D model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from p5jax.core.errors import UserError, nearest
from p5jax.models.initial import Params, fresh_params, logical_axes
from p5jax.models.layers import Array
from p5jax.parallel.partitioning import replicated
from p5jax.parallel.placing import mesh_of
from p5jax.ppr.generator import ProfileEmbedder, PromptConfig, PromptGenerator
from p5jax.ppr.profiles import Profiles
from p5jax.ppr.soft.words import PrefixedTransformer, prefixed_sources, with_prefixes
from p5jax.prompts.families import Family, make_families
from p5jax.prompts.template import PromptTemplate
from p5jax.runs.run import Run
from p5jax.training.children import Children
from p5jax.training.objective import DeviceBatch, Objective, batch_sums
from p5jax.triggers.initial import initial_tokens
from p5jax.triggers.layout import Layout
from p5jax.triggers.templates import arguments_template

FAMILY, PROMPT_ID = "sequential", "soft"
ARGUMENTS = "arguments"  # the text of a trigger prompt without its trigger words
TRAINABLE = ("soft/*",)
# Users' first prefixes are the same words, and differ a tenth as much as words do.
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


class SoftBackbone:
    """A frozen P5 run whose sequential family has one prompt, a soft prefix before a text.

    What the training of a soft prompt needs. text: the id of a prompt of the run, or "arguments";
    UserError for any other text.
    """

    def __init__(self, run: Run, prompt: PromptConfig, profiles: Profiles, text: str) -> None:
        self.run, self.profiles, self.text = run, profiles, text
        self.model = PrefixedTransformer(run.model.config)
        self.prompt = SoftPrompt(prompt, profiles.sizes, run.model.config.emb_dim)

    @property
    def length(self) -> int:
        """The rows P of a prefix."""
        return self.prompt.config.length

    @cached_property
    def families(self) -> dict[str, Family]:
        """The sequential family with the soft prompt's text, which has no sign of the prefix."""
        run = self.run
        templates = {PROMPT_ID: PromptTemplate(PROMPT_ID, FAMILY, self._inputs, "{item}")}
        return make_families(
            run.dataset, templates, run.vocabulary, run.family_config, names=(FAMILY,)
        )

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

    def initial(self, seed: int) -> Params:
        """Return the prompt's first parameters: all prefixes are about the same random words."""
        params = fresh_params(self.prompt, jax.random.key(seed), self.profiles.codes_UxM[:1])
        layout = Layout(self.length)
        words = initial_tokens(self.run, layout, "random", seed)
        table = np.asarray(self.run.params["token_embedder"]["embedding"])
        params["generator"]["mlp"]["w2"]["bias"] = table[words].reshape(-1)  # [P, D] -> [P * D]
        return params

    def axes(self) -> Params:
        """Return the logical axes of the prompt's parameters."""
        return logical_axes(self.prompt, self.profiles.codes_UxM[:1])

    def objective(self) -> Objective:
        """Return the T5's ordinary loss, a function of {"t5", "soft"}, a batch and an rng.

        The batch has t5x's arrays and "users", int32 [B], whose prefixes stand before the sources.
        The frozen model is read as it is used, without dropout.
        """
        codes_UxM = self.profiles.codes_UxM
        return partial(_batch_sums, self.model, self.prompt, codes_UxM, self.run.children)

    @cached_property
    def prefixes(self) -> Callable[[Params], jax.Array]:
        """The function that makes all users' prefixes [U, P, D] of the prompt's parameters."""
        mesh = mesh_of(self.run.params)

        def make(soft: Params) -> jax.Array:
            return cast(jax.Array, self.prompt.apply({"params": soft}, self.profiles.codes_UxM))

        return jax.jit(make, out_shardings=replicated(mesh) if mesh else None)

    def with_params(self, soft: Params, path: Path) -> SoftRun:
        """Return the run that these parameters of the prompt make, with its folder."""
        return SoftRun(self, soft, path)


class SoftRun:
    """A frozen run with a trained soft prompt: what evaluation and ranking need of a run.

    soft: the prompt's parameters. path: where the evaluation's results go.
    """

    def __init__(self, backbone: SoftBackbone, soft: Params, path: Path) -> None:
        run = backbone.run
        self.backbone, self.soft, self.path = backbone, soft, path
        self.dataset, self.vocabulary, self.model = run.dataset, run.vocabulary, backbone.model

    @property
    def families(self) -> dict[str, Family]:
        """The sequential family with the soft prompt's text."""
        return self.backbone.families

    @cached_property
    def params(self) -> Params:
        """The model's parameters with every user's prefix."""
        return with_prefixes(self.backbone.run.params, self.backbone.prefixes(self.soft))

    def sources(self, tokens: np.ndarray, users: np.ndarray) -> np.ndarray:
        """Return sources [B, S] behind the soft tokens of their users [B]: int32 [B, P + S]."""
        words, length = self.model.config.vocab_size, self.backbone.length
        return np.array(prefixed_sources(tokens, users, words, length))


def _batch_sums(
    model: PrefixedTransformer,
    prompt: SoftPrompt,
    codes_UxM: np.ndarray,
    children: Children | None,
    params: Params,
    batch: DeviceBatch,
    rng: jax.Array | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    users, tokens = batch["users"], batch["encoder_input_tokens"]
    made = prompt.apply({"params": params["soft"]}, jnp.asarray(codes_UxM)[users])
    prefix = cast(jax.Array, made)  # [B, P, D]
    # Only the rows' own prefixes are made: row b reads the b-th.
    rows = jnp.arange(len(tokens))
    sources = prefixed_sources(tokens, rows, model.config.vocab_size, prompt.config.length)
    batch = {**batch, "encoder_input_tokens": sources}
    t5 = with_prefixes(params["t5"], prefix)
    return batch_sums(model, t5, batch, None, children=children)
