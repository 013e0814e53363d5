"""What jobs begin with: settings from gin files, a mesh, an open run, and data without leaks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from jax.sharding import Mesh

from p5jax.core import config
from p5jax.core.errors import UserError
from p5jax.core.files import replace_text
from p5jax.data.dataset import Dataset
from p5jax.data.leaks import find_leaks
from p5jax.parallel import distributed, runtime
from p5jax.parallel.partitioning import MeshConfig, make_mesh
from p5jax.runs.run import Run

PathName = str | os.PathLike[str]
Bindings = Mapping[str, object]


def configure(
    classes: Iterable[type],
    gin_files: Iterable[PathName],
    bindings: Bindings | None,
    macros: Bindings,
) -> None:
    """Bind gin files, then macros and bindings by name, for `classes`; prepare this process.

    Values are Python's; text is read as on the command line: what is no Python literal and no
    reference of gin's (%NAME, @NAME) stands for itself. UserError for what nothing would use.
    """
    config.register_configs(*classes)
    values = {**macros, **(bindings or {})}
    config.configure(
        [os.fspath(file) for file in gin_files],
        [f"{name}={_text(value)}" for name, value in values.items()],
    )
    runtime.set_up()


def _text(value: object) -> str:
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    return str(text) or repr(value)


def keep_config(folder: Path) -> None:
    """Write the bindings in force to config.gin in a run's folder, from one process."""
    if distributed.is_primary():
        replace_text(folder / "config.gin", config.bound_config())


def data_mesh() -> Mesh:
    """The mesh that gin asks for, for models that are too small to be split by fsdp."""
    asked = config.build(MeshConfig)
    if asked.fsdp:
        raise UserError("MeshConfig.fsdp: found True, expected False for prompts from profiles")
    return make_mesh(asked)


def opened(run: Run | PathName, model_parallel: int = 1, step: int | None = None) -> Run:
    """Return a run, opened on a mesh of all devices and processes if it is given by its folder.

    model_parallel: devices that share the parameters. step: as Run.load, as are UserErrors.
    """
    if isinstance(run, Run):
        return run
    runtime.set_up()
    return Run.load(run, make_mesh(MeshConfig(model=model_parallel)), step)


def refuse_leaks(dataset: Dataset) -> Dataset:
    """Return a dataset; UserError when its audit finds a leak."""
    leaks = find_leaks(dataset)
    if leaks:
        raise UserError(f"{dataset.path}: {leaks[0]}; see p5jax data audit")
    return dataset


def beam_writer(
    opened: Callable[[], Callable[[Path, range], None]], options: Sequence[str]
) -> Callable[[Mapping[Path, range]], None] | None:
    """Return what writes files on Beam (see core.beam.write_on_beam), None without options.

    UserError when Beam is absent.
    """
    if not options:
        return None
    try:
        from p5jax.core.beam import write_on_beam
    except ImportError as error:
        raise UserError(
            f"{error}; pip install 'p5jax[beam]' in an environment of its own"
        ) from error
    return partial(write_on_beam, opened, options)
