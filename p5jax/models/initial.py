"""A module's first parameters, and the logical axes of each."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn
from flax.core import unfreeze
from flax.linen import partitioning
from jax.typing import ArrayLike

Params = dict[str, Any]  # nested dicts of arrays


def fresh_params(
    module: nn.Module,
    rng: jax.Array,
    *inputs: ArrayLike,
    compiled: bool = True,
    **options: Any,
) -> Params:
    """Return a module's initial parameters, nested dicts of float32.

    inputs, options: of the module's call; their shapes decide those of the parameters. compiled:
    all parameters by one program, whose last bits are not those of one program for each.
    """

    def init(key: jax.Array) -> Any:
        return module.init(key, *inputs, **options)["params"]

    return dict(unfreeze((jax.jit(init) if compiled else init)(rng)))


def logical_axes(module: nn.Module, *inputs: ArrayLike, **options: Any) -> dict[str, Any]:
    """Return the tree of a module's parameters with a tuple of logical axis names at each leaf.

    inputs, options: of the module's call, as for `fresh_params`.
    """

    def init(key: jax.Array) -> Any:
        return module.init(key, *inputs, **options)

    names = partitioning.get_axis_names(jax.eval_shape(init, jax.random.key(0))["params_axes"])
    return dict(
        jax.tree.map(
            tuple, unfreeze(names), is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)
        )
    )
