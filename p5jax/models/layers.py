"""The layers of T5 (Raffel et al. 2020) beside attention, with t5x's names and logical axes.

Letters: B batch, T length, D model, N rows of a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning
from flax.linen.spmd import with_logical_constraint
from jax import lax

Array = jax.Array
Initializer = Callable[..., Array]

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
    "linear": lambda x: x,
}
ACTIVATIONS = tuple(_ACTIVATIONS)


def normal(stddev: float) -> Initializer:
    """An initializer: normal with mean 0 and this standard deviation."""
    return nn.initializers.normal(stddev=stddev)


def constrained(x: Array, *axes: str) -> Array:
    """Return `x` with the sharding of its logical axes, one name for each dimension."""
    y: Array = with_logical_constraint(x, axes)
    return y


class Dropout(nn.Module):
    """Dropout with one mask for all positions along `axis`, as T5: few random bits are needed."""

    rate: float
    axis: int = -2

    @nn.compact
    def __call__(self, x: Array, deterministic: bool, rates: Array | None = None) -> Array:
        """rates: those of the positions, in place of `rate`, to be broadcast over `x`."""
        if deterministic or (self.rate == 0.0 and rates is None):
            return x
        shape = list(x.shape)
        shape[self.axis] = 1
        if rates is not None:
            kept = jax.random.uniform(self.make_rng("dropout"), shape) >= rates
            return x * (kept / (1.0 - rates)).astype(x.dtype)
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - self.rate, shape)
        # A product with the small mask (not a select): the compiler fuses it into its neighbours.
        return x * (kept.astype(x.dtype) * (1.0 / (1.0 - self.rate)))


class LayerNorm(nn.Module):
    """RMS norm: no mean, no bias; statistics in float32 (eps 1e-6)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = partitioning.param_with_axes(
            "scale", nn.initializers.ones, (x.shape[-1],), jnp.float32, axes=("embed",)
        )
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(lax.square(x), axis=-1, keepdims=True)
        y: Array = (x * lax.rsqrt(mean_square + 1e-6) * scale).astype(self.dtype)
        return y


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(x: Array, kernel: Array, dtype: Any, output_dtype: Any) -> Array:
    """[..., I] @ [I, O] -> [..., O], computed in `dtype`; the kernel's gradient is float32.

    Its gradient writes the kernel's as x'g, in the kernel's own layout; the one JAX derives is
    transposed, and XLA then copies whole activations on CPU (40 % of a feed-forward block's time).
    """
    return jnp.dot(x.astype(dtype), kernel.astype(dtype), preferred_element_type=output_dtype)


def _product_forward(
    x: Array, kernel: Array, dtype: Any, output_dtype: Any
) -> tuple[Array, tuple[Array, Array]]:
    return product(x, kernel, dtype, output_dtype), (x, kernel)


def _product_backward(
    dtype: Any, output_dtype: Any, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    gradient = gradient.astype(dtype)
    rows = tuple(range(x.ndim - 1))
    kernel_gradient = lax.dot_general(
        x.astype(dtype), gradient, ((rows, rows), ((), ())), preferred_element_type=jnp.float32
    )
    x_gradient = lax.dot_general(gradient, kernel.astype(dtype), (((x.ndim - 1,), (1,)), ((), ())))
    return x_gradient.astype(x.dtype), kernel_gradient.astype(kernel.dtype)


product.defvjp(_product_forward, _product_backward)


class Dense(nn.Module):
    """A matrix product, with a bias if asked for: [..., I] -> [..., features].

    The kernel [I, features] starts with the standard deviation `stddev`, a bias [features] at zero.
    Layers with a bias compute in float32.
    """

    features: int
    axes: tuple[str, str]
    stddev: float
    dtype: Any = jnp.float32
    output_dtype: Any = None  # None: dtype
    bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = partitioning.param_with_axes(
            "kernel", normal(self.stddev), (x.shape[-1], self.features), jnp.float32, axes=self.axes
        )
        if not self.bias:
            return product(x, kernel, self.dtype, self.output_dtype or self.dtype)
        bias = partitioning.param_with_axes(
            "bias", nn.initializers.zeros, (self.features,), jnp.float32, axes=self.axes[1:]
        )
        # The gradient that JAX derives, to whose last bits these layers have always been trained.
        y: Array = x @ kernel + bias
        return y


class Embed(nn.Module):
    """A lookup table [N, D]; `attend` is the product with its transpose."""

    num_embeddings: int
    features: int
    axes: tuple[str, str]
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.embedding = partitioning.param_with_axes(
            "embedding",
            normal(1.0),
            (self.num_embeddings, self.features),
            jnp.float32,
            axes=self.axes,
        )

    def __call__(self, ids: Array) -> Array:
        """[...] int32 -> [..., D]; ids outside the table are clipped to its ends."""
        return jnp.take(self.embedding, ids, axis=0, mode="clip").astype(self.dtype)

    def attend(self, x: Array) -> Array:
        """[B, T, D] -> [B, T, N] float32."""
        return jnp.einsum(
            "btd,nd->btn",
            x.astype(self.dtype),
            self.embedding.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )


class MLP(nn.Module):
    """T5's feed-forward block: the product of the activations' branches, dropout, then `wo`."""

    hidden_dim: int
    activations: Sequence[str]
    dropout_rate: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, deterministic: bool, rates: Array | None = None) -> Array:
        model_dim = x.shape[-1]
        hidden: Array | None = None
        for number, activation in enumerate(self.activations):
            name = "wi" if len(self.activations) == 1 else f"wi_{number}"
            dense = Dense(self.hidden_dim, ("embed", "mlp"), model_dim**-0.5, self.dtype, name=name)
            branch = _ACTIVATIONS[activation](dense(x))
            hidden = branch if hidden is None else hidden * branch
        assert hidden is not None  # there is one activation at least
        hidden = constrained(hidden, "batch", "length", "mlp")
        hidden = Dropout(self.dropout_rate, name="dropout")(hidden, deterministic, rates)
        stddev = self.hidden_dim**-0.5
        return Dense(model_dim, ("mlp", "embed"), stddev, self.dtype, name="wo")(hidden)
