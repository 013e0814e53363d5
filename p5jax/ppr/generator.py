"""The makers of soft prompts: profile embeddings and the prompt generator (PPR, section 3).

Letters: B users, M attributes, X profile width, P prompt length, L layers, D model.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning

from p5jax.core.settings import COUNT, SIZE, check
from p5jax.models.layers import Array, Dense, normal

# Of the first profile embeddings: small, so that users start alike and what they share is learned
# first. With 1 the model overfits the few hundred cold users of ml-100k within 20 steps.
PROFILE_STDDEV = 0.1
PROFILE_AXIS = "profile"  # in no rule: every device holds profile embeddings whole


@dataclass(frozen=True)
class PromptConfig:
    """Sizes of a prompt and of its generator.

    length: prompt rows P. hidden: of the generator and of MLP_a, 0 for twice the model's width, as
    published. attribute_dim: of each attribute's embedding.
    """

    length: int = 1
    hidden: int = 0
    attribute_dim: int = 64

    def __post_init__(self) -> None:
        check(self, length=SIZE, hidden=COUNT, attribute_dim=SIZE)


class TwoLayers(nn.Module):
    """W2 relu(W1 x + b1) + b2: [B, X] -> [B, features]."""

    hidden: int
    features: int
    stddev: float  # of W2's start: how large the first outputs are

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        first = Dense(self.hidden, (PROFILE_AXIS, "mlp"), (2 / width) ** 0.5, bias=True, name="w1")
        second = Dense(self.features, ("mlp", "embed"), self.stddev, bias=True, name="w2")
        return second(jax.nn.relu(first(x)))


class ProfileEmbedder(nn.Module):
    """Profiles as vectors x_u.

    sizes: how many codes each attribute has, 0 (unknown) included; each code has a row of one
    table. Without sizes a profile is a vector and x_u itself.
    """

    sizes: tuple[int, ...]
    dim: int

    @nn.compact
    def __call__(self, profiles: Array) -> Array:
        """Codes [B, M] int32 -> [B, M * dim], or vectors [B, X] -> the same."""
        if not self.sizes:
            return profiles
        table: Array = partitioning.param_with_axes(
            "embedding",
            normal(PROFILE_STDDEV),
            (sum(self.sizes), self.dim),
            jnp.float32,
            axes=(PROFILE_AXIS, "embed"),
        )
        first = np.cumsum(self.sizes) - self.sizes
        # [B, M, dim] -> [B, M * dim]
        return table[profiles + first].reshape(len(profiles), -1)


class PromptGenerator(nn.Module):
    """Prompts of all layers from profile vectors: [B, X] -> [B, P, L, D].

    Its first outputs have a standard deviation of about `stddev`, which should be that of the
    embeddings they are read with; with 0 every user's first prompt is the bias.
    """

    config: PromptConfig
    layers: int
    model_dim: int
    stddev: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        length, hidden = self.config.length, self.config.hidden or 2 * self.model_dim
        outputs = length * self.layers * self.model_dim
        # x has elements of about unit variance, and so have the hidden units' squares.
        mlp = TwoLayers(hidden, outputs, self.stddev * hidden**-0.5, name="mlp")
        return mlp(x).reshape(-1, length, self.layers, self.model_dim)


def masked_elements(x: Array, rate: float, rng: Array) -> Array:
    """Return x [B, X] with elements set to 0 at a rate.

    It is a second view of the profiles, with prompts of its own (PPR's prompt-based augmentation).
    """
    return jnp.where(jax.random.bernoulli(rng, rate, x.shape), 0.0, x)
