"""The recipes of Beauty and Toys, larger and faster than a CPU would: weights and metrics."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from parts.cells import Cell, Place
from parts.inputs import RECIPES

# What a GPU does with the recipe's settings.
SETTINGS = {"STEPS": 4800, "BATCH_SIZE": 256}
TINY = {"STEPS": 4, "BATCH_SIZE": 8}
FILE_BYTES = 16_000_000
_EVALUATION = 30.0  # seconds that are kept for it


def cells(place: Place) -> list[Cell]:
    """One for each dataset that `prepare` has made."""
    names = [name for name in RECIPES if (place.data / name).is_dir()]
    seconds = 1 if place.tiny else 60
    return [Cell(name, partial(_recipe, place, name), seconds) for name in names]


def _recipe(place: Place, name: str, deadline: float) -> dict[str, Any]:
    import jax

    from p5jax.core.errors import Interrupted
    from p5jax.evaluation.evaluators import evaluate_family
    from p5jax.jobs.train import train
    from p5jax.runs.run import Run
    from p5jax.training.checkpoints import available_steps

    folder = place.work / name
    macros = {"DATASET": place.data / name, "RUN_DIR": folder} | (TINY if place.tiny else SETTINGS)
    # Packed, all batches have one shape: there is no time to compile twelve.
    bindings: dict[str, object] = {
        "PipelineConfig.batching": "packed",
        "TrainConfig.log_every": 2 if place.tiny else 100,
    }
    if jax.default_backend() != "cpu":
        bindings["T5Config.dtype"] = "bfloat16"
    if place.tiny:
        validation = {"ValidationConfig.rank_users": 8, "ValidationConfig.examples": 8}
        bindings |= validation | {"RunConfig.vocabulary_size": 200}
    # A signal is how a run is stopped in good order, with a checkpoint; the next call resumes it.
    timer = threading.Timer(
        max(10.0, deadline - _EVALUATION - time.monotonic()), os.kill, (os.getpid(), signal.SIGTERM)
    )
    timer.start()
    started, finished = time.monotonic(), True
    try:
        train("runs/next_item.gin", bindings=bindings, **macros)
    except Interrupted:
        finished = False
    finally:
        timer.cancel()
    trained = time.monotonic() - started
    run = Run.load(folder)
    weights = _keep_weights(run, place.out, name)  # before an evaluation that may be late
    result = evaluate_family(run, "sequential", "L-1", "test", 20 if place.tiny else None)
    return {
        "finished": finished,
        "step": available_steps(folder / "checkpoints")[-1],
        "training_seconds": trained,
        "weights": weights,
        "L-1": {"n": result.n, "metrics": result.metrics},
    }


def _keep_weights(run: Any, out: Path, name: str) -> list[str]:
    """Write the parameters in bfloat16, as safetensors cut into parts to be put together again."""
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict
    from safetensors.flax import save

    small = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), run.params)
    data = save(flatten_dict(small, sep="/"))
    files = []
    for number, first in enumerate(range(0, len(data), FILE_BYTES)):
        file = out / f"{name}-{number}.safetensors.part"
        file.write_bytes(data[first : first + FILE_BYTES])
        files.append(file.name)
    return files
