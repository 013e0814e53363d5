"""One replacement of a trigger token beside a PyTorch loop, as triggers.py measures it."""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from functools import partial
from importlib.util import find_spec
from typing import Any

import triggers
from hardware import available_cores
from training import SIZES

from parts.cells import Cell, Place
from parts.inputs import RECIPES


def cells(place: Place) -> list[Cell]:
    """One for each beam."""
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        note = {"note": f"{', '.join(missing)}: not installed, so no comparison"}
        return [Cell("none", lambda _: note)]
    seconds = 1.0 if place.tiny else 40.0
    beams = (5,) if place.tiny else (5, 20)
    return [Cell(f"beam {beam}", partial(_measure, place, beam), seconds) for beam in beams]


def _run(place: Place) -> Any:
    """A new run with random weights, which cost as much as trained ones.

    Answers are single items, as P5's: the loop does not know those that begin with others.
    """
    import jax

    from p5jax.models.t5 import T5Config, init_params
    from p5jax.prompts.families import FamilyConfig
    from p5jax.runs.run import Run, RunConfig

    _, width, heads, head, mlp, layers = SIZES["tiny" if place.tiny else "small"]
    model = T5Config(0, width, heads, layers, layers, head, mlp)
    config = RunConfig(
        str(place.data / RECIPES[0]), str(place.work / "random"), vocabulary_size=600
    )
    run = Run.create(config, FamilyConfig(max_source=192, num_candidates=20), model)
    return run.with_params(init_params(run.model, jax.random.key(0)))


def _measure(place: Place, beam: int, _: float) -> dict[str, Any]:
    from p5jax.models.checkpoints.hugging_face import export_hugging_face

    run = _run(place)
    triggers.without_whole_words(run)
    ids = [[*run.vocabulary.encode(id), run.vocabulary.eos_id] for id in run.dataset.item_ids]
    users, examples, rounds = (8, 4, 1) if place.tiny else (64, 16, 2)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        export_hugging_face(run.params, run.model.config, folder)
        arguments = theirs, folder, ids, available_cores()
        worker = context.Process(target=triggers.serve, args=arguments, daemon=True)
        worker.start()
        theirs.close()  # so that a process that dies ends our recv

        def call(method: str, *arguments: Any) -> Any:
            ours.send((method, arguments))
            return ours.recv()

        options = argparse.Namespace(users=users, gradient_examples=examples, seed=0)
        replacement = triggers.Replacement(run, options, beam, call)
        for number in range(rounds + 1):
            replacement.round(number)
        ours.send(None)
        worker.join()
    return triggers.summary(replacement)
