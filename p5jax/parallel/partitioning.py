"""Device mesh and shardings: logical axis names of parameters -> named mesh axes."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from p5jax.core.errors import UserError, in_words
from p5jax.core.progress import print_progress
from p5jax.core.settings import at_least, check

DATA, MODEL = "data", "model"

# t5x's standard rules. A logical axis that is not listed is replicated, so new parameters
# (whole-word table, soft prefix) need no entry here.
RULES: tuple[tuple[str, str | None], ...] = (
    ("batch", DATA),
    ("vocab", MODEL),
    ("mlp", MODEL),
    ("heads", MODEL),
    ("joined_kv", MODEL),
    ("embed", None),
    ("kv", None),
    ("relpos_buckets", None),
    ("length", None),
    ("layers", None),
    ("stack", None),
)


@dataclass(frozen=True)
class MeshConfig:
    """Mesh shape: `data` groups share the batch, `model` devices share the parameters.

    -1 for one of the two means: all devices that the other leaves. `fsdp` also splits parameters
    and optimizer state over `data`, by their "embed" dimension: less memory, more communication,
    the same numbers.
    """

    data: int = -1
    model: int = 1
    fsdp: bool = False

    def __post_init__(self) -> None:
        check(self, data=at_least(-1), model=at_least(-1))
        if 0 in (self.data, self.model) or self.data == self.model == -1:
            shape = f"mesh data={self.data}, model={self.model}"
            raise UserError(f"{shape}: expected positive sizes, or -1 for one of them")


def make_mesh(config: MeshConfig = MeshConfig()) -> Mesh:
    """Mesh with axes (data, model) over all devices of all processes; UserError if it misfits."""
    devices = jax.device_count()
    data, model = config.data, config.model
    shape = f"mesh data={data}, model={model}"
    if data == -1:
        data = devices // model
    elif model == -1:
        model = devices // data
    if data * model != devices:
        raise UserError(
            f"{shape}: does not fit {devices} devices, expected data * model = {devices}"
        )
    grid = mesh_utils.create_device_mesh((data, model), jax.devices())
    return Mesh(grid, (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


def describe_mesh(mesh: Mesh, fsdp: bool = False) -> str:
    """One line for the log: the shape, the devices and the processes."""
    device = mesh.devices.flat[0]
    return (
        f"mesh data {mesh.shape[DATA]} x model {mesh.shape[MODEL]}{', fsdp' if fsdp else ''}: "
        f"{mesh.devices.size} {device.device_kind} device(s), {jax.process_count()} process(es)"
    )


@contextlib.contextmanager
def logical_mesh(mesh: Mesh) -> Iterator[None]:
    """Context in which a model's logical sharding constraints mean this mesh and RULES."""
    with mesh, nn.logical_axis_rules(RULES):
        yield


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of a value that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of a batch array: rows over `data`, the rest replicated."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as text: "encoder/layers_0/mlp/wi/kernel"."""
    return "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def param_shardings(mesh: Mesh, axes: Any, params: Any, fsdp: bool = False) -> Any:
    """Tree of NamedSharding beside `params` (arrays or ShapeDtypeStructs).

    `axes` has the same structure with a tuple of logical axis names per parameter; `fsdp` as in
    MeshConfig. UserError when a dimension is not a multiple of the mesh axis that would split it.
    """
    # A rule for parameters only: activations keep `embed` whole, their rows take `data`.
    rules = dict(RULES) | ({"embed": DATA} if fsdp else {})

    def sharding(path: tuple[Any, ...], names: tuple[str | None, ...], param: Any) -> NamedSharding:
        if len(names) != len(param.shape):
            raise UserError(
                f"{path_name(path)}: found {len(names)} axis names {tuple(names)} for shape "
                f"{tuple(param.shape)}"
            )
        spec: list[str | None] = []
        for name, size in zip(names, param.shape, strict=True):
            axis = rules.get(name) if name is not None else None
            if axis in spec:  # an array dimension may use a mesh axis only once
                axis = None
            if axis is not None and size % mesh.shape[axis]:
                raise UserError(
                    f"{path_name(path)}: dimension {name} is {size}, expected a multiple of "
                    f"the mesh's {axis}={mesh.shape[axis]}"
                )
            spec.append(axis)
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(
        sharding, axes, params, is_leaf=lambda x: isinstance(x, tuple)
    )


def state_shardings(mesh: Mesh, abstract_state: Any, params: Any, shardings: Any) -> Any:
    """Tree of NamedSharding beside an optimizer state (or any tree that embeds parameter trees).

    A leaf whose path ends in a parameter's path and whose shape is the parameter's takes the
    parameter's sharding; anything else (counters, Adafactor's factored moments) is replicated.
    """
    known: dict[tuple[str, ...], tuple[Any, NamedSharding]] = {
        tuple(map(str, path)): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings), strict=True
        )
    }

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        keys = tuple(map(str, path))
        for start in range(len(keys)):
            shape, found = known.get(keys[start:], (None, None))
            if found is not None and shape == leaf.shape:
                return found
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding, abstract_state)


def process_share(mesh: Mesh) -> tuple[int, int]:
    """Which share of a batch's rows this process feeds, and of how many.

    Processes that hold parts of one model, so the same data groups, feed the same rows. UserError
    when the groups do not divide evenly over the processes.
    """
    held: dict[int, set[int]] = {}
    for group, row in enumerate(mesh.devices):
        for device in row:
            held.setdefault(device.process_index, set()).add(group)
    shares = sorted({tuple(sorted(groups)) for groups in held.values()})
    if sum(map(len, shares)) != mesh.shape[DATA] or len({len(share) for share in shares}) != 1:
        raise UserError(f"{describe_mesh(mesh)}: its data groups do not divide over the processes")
    return shares.index(tuple(sorted(held[jax.process_index()]))), len(shares)


def shard_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Global arrays from this process's share of the rows (see `process_share`).

    Each value is [b, ...] with b the rows of the share; the result is [b * shares, ...]. UserError
    when the rows do not split evenly.
    """
    sharding = batch_sharding(mesh)
    size, (_, shares) = mesh.shape[DATA], process_share(mesh)
    for name, value in batch.items():
        rows = value.shape[0] * shares
        if rows % size:
            raise UserError(
                f"batch {name}: found {rows} rows, expected a multiple of the mesh's data={size}"
            )
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(value))
        for name, value in batch.items()
    }


def enable_compilation_cache(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Keep compiled programs on disk and return the folder (default ~/.cache/p5jax/xla).

    The environment variable JAX_COMPILATION_CACHE_DIR wins over both. None, with a note, where the
    folder cannot be written or there is no home: programs are then compiled at each start.
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR") or folder or "~/.cache/p5jax/xla"
    path: Path | None
    try:
        path = Path(chosen).expanduser()
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        print_progress(
            f"note: compiled programs are not kept ({in_words(error)}); set"
            " JAX_COMPILATION_CACHE_DIR to a folder that can be written"
        )
        path = None
    jax.config.update("jax_compilation_cache_dir", None if path is None else str(path))
    # JAX looks at the setting only once, at its first compilation, which may be behind us.
    compilation_cache.reset_cache()
    return path
