"""Training steps of transformers' T5 in PyTorch: bfloat16, compiled, padded."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import training

from parts.cells import Cell, Place
from parts.steps import doubling

WAYS = {"longest": training.TORCH, "buckets": training.BUCKETS}


def cells(place: Place) -> list[Cell]:
    """P5's padding first, since it has one shape."""
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        note = {"note": f"{', '.join(missing)}: not installed, so no comparison"}
        return [Cell("none", lambda _: note)]
    sizes, largest = (("tiny",), 32) if place.tiny else (("small", "base", "tiny"), 8192)
    return [
        Cell(
            f"{size}, {way}",
            lambda end, s=size, w=way: doubling(end, s, WAYS[w], _step(place.tiny), largest),
            1 if place.tiny else 40,
        )
        for way in WAYS
        for size in sizes
    ]


def _step(tiny: bool) -> Callable[[str], Any]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    cores = torch.get_num_threads()
    # Compiling on a CPU takes a C++ compiler and half a minute: nothing for a trial.
    return lambda size: training.torch_step(training.SIZES[size], cores, device, not tiny)
