"""Training steps of p5jax at growing batches, and what both frameworks' steps have in common."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import training

from parts.cells import Cell, Place

LARGEST = 8192
WINDOW = 4  # batches that are packed or sorted by length together


def cells(place: Place) -> list[Cell]:
    """One for each size."""
    if place.tiny:
        return [Cell("tiny, packed", lambda end: doubling(end, "tiny", training.PACKED, _ours, 64))]
    return [
        Cell(f"{size}, packed", lambda end, s=size: doubling(end, s, training.PACKED, _ours), 20)
        for size in ("small", "base", "tiny")
    ]


def _ours(size: str) -> Callable[[Any], None]:
    import jax

    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return training.p5jax_step(training.SIZES[size], 0, dtype)


def doubling(
    deadline: float, size: str, way: str, make_step: Callable[[str], Any], largest: int = LARGEST
) -> dict[str, Any]:
    """Figures of batches of 32 examples, 64 and so on, until memory or time is used up."""
    found: dict[str, Any] = {}
    rows, step = 32, make_step(size)
    while rows <= largest:
        started = time.monotonic()
        try:
            found[str(rows)] = timed_window(step, size, way, rows)
        except Exception as error:  # each framework has an error of its own for memory
            words = str(error)
            if "RESOURCE_EXHAUSTED" not in words and "out of memory" not in words:
                raise
            return found | {"ended": f"out of memory at {rows}"}
        if time.monotonic() + 1.5 * (time.monotonic() - started) > deadline:
            return found | {"ended": f"out of time after {rows}"}
        rows *= 2
    return found


def timed_window(step: Callable[[Any], None], size: str, way: str, rows: int) -> dict[str, float]:
    """Milliseconds for `rows` examples, rates, and the share of the device's bfloat16 peak."""
    from p5jax.models.flops import training_flops
    from p5jax.models.t5 import T5Config

    options = argparse.Namespace(window=WINDOW, batch_size=rows, size=size, lengths="p5", batches=1)
    plans, real = training.make_plans(options)
    parts, positions = plans[way]
    vocab, width, heads, head, mlp, layers = training.SIZES[size]
    config = T5Config(vocab, width, heads, layers, layers, head, mlp)
    seconds = flops = taken = 0.0
    for batch, weight in parts:
        step(batch)  # compiles
        times: list[float] = []
        while len(times) < 5 and sum(times) < 2.0:
            started = time.perf_counter()
            step(batch)
            times.append(time.perf_counter() - started)
        seconds += weight * float(np.median(times))
        shape = batch["encoder_input_tokens"].shape
        target = batch["decoder_target_tokens"].shape[1]
        flops += weight * training_flops(config, *shape, target)
        taken += weight * (batch["encoder_input_tokens"].size + shape[0] * target)
    figures = {
        "ms": 1000 * seconds / WINDOW,
        "real_tokens_per_second": real / seconds,
        "positions_per_second": taken / seconds,
        "padded_per_real": positions / real,
        "tflops_per_second": flops / seconds / 1e12,
    }
    peak = _peak()
    return figures | ({} if peak is None else {"mfu": flops / seconds / peak})


def _peak() -> float | None:
    import jax

    from p5jax.training.utilisation import peak_flops

    return peak_flops(jax.devices()[0].device_kind)
