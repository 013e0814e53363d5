"""Tokens a second of the training pipeline alone: rendered on the fly against read from shards.

    python benchmarks/pipeline.py --gin_file=results/beauty.gin --dataset DIR [--windows 8]
                                  [--rounds 5] [--workers 1 2]

The prompts, lengths and rates are those of the run that the gin file describes; batches are packed,
as accelerators take them. A window is 2,048 prompts or more; a first one fills the renderer's cache
of words and is left out. Tokens are real ones of sources and targets, no padding. The two ways take
turns; rates are medians by the processor's time, so that other work on the machine does little to
them, and `cores` is how many such cores make a million tokens a second.

With `--workers` the same windows come from so many processes. `main` is the processor's time of the
process that takes them, which no number of workers makes less, and `clock` what went by.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from hardware import available_cores, describe, warn_if_busy

from p5jax.core import config
from p5jax.jobs.start import configure
from p5jax.jobs.train import CONFIGS, configured_run
from p5jax.pipeline.batching import Batch
from p5jax.pipeline.config import PipelineConfig
from p5jax.pipeline.iterator import BatchIterator
from p5jax.pipeline.samples import RenderedSamples
from p5jax.pipeline.shard_export import export_shards
from p5jax.pipeline.shards import open_shards
from p5jax.pipeline.windows import Windows
from p5jax.runs.run import Run

GOAL = 1e6  # tokens a second


def tokens_of(batches: list[Batch]) -> int:
    """The real tokens of batches, sources and targets."""
    sides = ("encoder_input_tokens", "decoder_target_tokens")
    return sum(int(np.count_nonzero(batch[side])) for batch in batches for side in sides)


def processor(call: Callable[..., object], *arguments: object) -> float:
    """The processor's seconds of a call."""
    start = time.process_time()
    call(*arguments)
    return time.process_time() - start


def figures(tokens: int, prompts: int, seconds: list[float]) -> dict[str, float]:
    """Rates of the median round, and of the slowest and the fastest."""
    middle = statistics.median(seconds)
    return {
        "tokens_per_second": round(tokens / middle),
        "least": round(tokens / max(seconds)),
        "most": round(tokens / min(seconds)),
        "prompts_per_second": round(prompts / middle),
        "cores": round(GOAL * middle / tokens, 2),
    }


def from_workers(windows: Windows, workers: int, count: int) -> dict[str, float]:
    """Seconds for windows 1 to `count` made by worker processes; window 0 starts them."""
    windows.config = replace(windows.config, workers=workers)
    iterator = BatchIterator(windows, 0, 1)
    made = iterator.epochs(0)
    next(made)
    clock, main = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(made)
    taken = {"clock": time.perf_counter() - clock, "main": time.process_time() - main}
    made.close()  # type: ignore[attr-defined]  # Grain's
    return taken


def measure(run: Run, pipeline: PipelineConfig, options: argparse.Namespace) -> dict[str, object]:
    """All figures, JSON-able."""
    rendered = RenderedSamples(run.families, run.vocabulary, pipeline)
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        taken = processor(lambda: export_shards(rendered, shards, report=lambda line: None))
        size = sum(file.stat().st_size for file in shards.rglob("*.array_record"))
        prompts = open_shards(str(shards), rendered).period or 0
        ways = {
            name: Windows(run.families, run.vocabulary, replace(pipeline, shards=source))
            for name, source in (("rendered", ""), ("read", str(shards)))
        }
        window = pipeline.window_batches * pipeline.batch_size
        places = range(1, 1 + options.windows)
        tokens = sum(tokens_of(ways["read"](place)) for place in places)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds + 1):
            for name, windows in ways.items():
                spent = processor(list, map(windows, places))
                if number:
                    seconds[name].append(spent)
        drawn = window * options.windows
        found: dict[str, object] = {
            name: figures(tokens, drawn, each) for name, each in seconds.items()
        }
        for workers in options.workers:
            for name, windows in ways.items():
                took = from_workers(windows, workers, options.windows)
                found[f"{name}, {workers} workers"] = {
                    what: round(tokens / value) for what, value in took.items()
                }
    return found | {
        "tokens_per_prompt": round(tokens / drawn, 1),
        "shards": {
            "prompts": prompts,
            "bytes_per_prompt": round(size / prompts),
            "written_prompts_per_second": round(prompts / taken),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gin_file", required=True, metavar="FILE")
    parser.add_argument("--dataset", required=True, metavar="DIR")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    options = parser.parse_args()
    load = warn_if_busy()
    with tempfile.TemporaryDirectory() as folder:
        bindings = {"PipelineConfig.batching": "packed", "PipelineConfig.threads": 0}
        macros = {"DATASET": options.dataset, "RUN_DIR": f"{folder}/run"}
        configure(CONFIGS, (options.gin_file,), bindings, macros)
        run, pipeline = configured_run(), config.build(PipelineConfig)
        found = measure(run, pipeline, options)
    about = {"hardware": describe(available_cores()), "load": load, "options": vars(options)}
    print(json.dumps(about | {"dataset": run.dataset.name} | found, indent=1))


if __name__ == "__main__":
    main()
