"""What the commands that use all devices and processes share."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import Any


def add_mesh(command: argparse.ArgumentParser) -> None:
    """Add the flag that says how the devices share the work."""
    command.add_argument(
        "--model-parallel",
        type=int,
        default=1,
        metavar="N",
        help="devices that share the parameters; the others share the batch",
    )


@contextlib.contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[Any]:
    """Open the run of a command on a mesh of all devices and processes."""
    from p5jax.parallel import runtime
    from p5jax.parallel.partitioning import MeshConfig, make_mesh
    from p5jax.runs.run import Run

    with runtime.session():
        yield Run.load(arguments.folder, make_mesh(MeshConfig(model=arguments.model_parallel)))
