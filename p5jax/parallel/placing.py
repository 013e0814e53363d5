"""Rows and results of inference on the devices that hold the parameters, one or many.

Parameters that lie on a mesh (see parallel.partitioning) make every program that reads them one
program of all its devices and processes: rows are split over `data`, results gathered.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.typing import ArrayLike

from p5jax.parallel.partitioning import DATA, batch_sharding, replicated

Tree = TypeVar("Tree")


def mesh_of(params: Any) -> Mesh | None:
    """The mesh that the parameters lie on; None where they are on one device, or on the host."""
    for leaf in jax.tree.leaves(params):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
            return sharding.mesh
    return None


def place_rows(params: Any, rows: ArrayLike) -> jax.Array:
    """Rows [B, ...], the same in every process, beside the parameters: [B', ...].

    On a mesh they are split over `data`, the first one repeated until they divide (B' >= B).
    """
    mesh = mesh_of(params)
    if mesh is None:
        return jnp.asarray(rows)
    host = np.asarray(rows)
    missing = -len(host) % mesh.shape[DATA]
    host = np.concatenate([host, np.repeat(host[:1], missing, axis=0)])
    return jax.make_array_from_callback(host.shape, batch_sharding(mesh), host.__getitem__)


def place_whole(params: Any, tree: Tree) -> Tree:
    """A tree of arrays, the same in every process, whole on every device that has parameters."""
    mesh = mesh_of(params)

    def placed(leaf: Any) -> jax.Array:
        if mesh is None:
            return jnp.asarray(leaf)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, replicated(mesh), host.__getitem__)

    placed_tree: Tree = jax.tree.map(placed, tree)
    return placed_tree


def to_host(tree: Any) -> Any:
    """Arrays as whole numpy arrays in every process, each of which must call it."""
    return jax.tree.map(_whole, tree)


def _whole(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = _gather(leaf.sharding.mesh)(leaf)  # type: ignore[attr-defined]
    return np.asarray(leaf)


@lru_cache
def _gather(mesh: Mesh) -> Any:
    return jax.jit(lambda leaf: leaf, out_shardings=replicated(mesh))
