"""Prompts a second: rendered on the fly against read from shards, in turns, in one thread.

    python benchmarks/shards.py --dataset DIR [--rounds 5] [--windows 4]

A window is 2,048 prompts of all the families that the dataset feeds, at P5's lengths, in a
vocabulary of the dataset's own. Rendering starts warm: its cache of words is filled by a first
pass. "draws" are tokens alone; "batches" are cut into buckets too, as training on a CPU takes them.
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

from hardware import available_cores, describe, warn_if_busy

from p5jax.data.dataset import Dataset
from p5jax.pipeline.config import PipelineConfig
from p5jax.pipeline.samples import RenderedSamples
from p5jax.pipeline.shard_export import export_shards
from p5jax.pipeline.shards import open_shards
from p5jax.pipeline.windows import Windows
from p5jax.prompts.families import FamilyConfig, make_families
from p5jax.prompts.template_files import load_templates
from p5jax.text.corpus import corpus
from p5jax.text.vocabulary import Vocabulary

WINDOW = 2048


def alternate(jobs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each job in each round; the jobs take turns, so that all meet the same noise."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--pieces", type=int, default=6000)
    arguments = parser.parse_args()
    load = warn_if_busy()
    dataset, templates = Dataset.load(arguments.dataset), load_templates("amazon")
    texts = corpus(dataset, templates.values())
    vocabulary = Vocabulary.train(texts, arguments.pieces, dataset.id_tokens)
    families = make_families(dataset, templates, vocabulary, FamilyConfig())
    config = PipelineConfig(batching="buckets", threads=0)
    rendered = RenderedSamples(families, vocabulary, config)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        export_shards(rendered, Path(folder) / "shards")
        export_seconds = time.perf_counter() - start
        shards = open_shards(Path(folder) / "shards", rendered)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*.array_record"))
        read_config = replace(config, shards=str(Path(folder) / "shards"))
        windows = Windows(families, vocabulary, config)
        read_windows = Windows(families, vocabulary, read_config)
        places = range(min(arguments.windows, shards.period // WINDOW))
        seconds = alternate(
            {
                "draws rendered": lambda: [rendered(p * WINDOW, WINDOW) for p in places],
                "draws read": lambda: [shards(p * WINDOW, WINDOW) for p in places],
                "batches rendered": lambda: [windows(p) for p in places],
                "batches read": lambda: [read_windows(p) for p in places],
            },
            arguments.rounds,
        )
    rates = {
        name: [round(len(places) * WINDOW / s) for s in sorted(each, reverse=True)]
        for name, each in seconds.items()
    }
    median = {name: statistics.median(each) for name, each in rates.items()}
    report = {
        "hardware": describe(available_cores()),
        "load": load,
        "dataset": dataset.name,
        "families": {name: family.size("train") for name, family in families.items()},
        "export_prompts_per_second": round(shards.period / export_seconds),
        "bytes_per_prompt": round(size / shards.period),
        "prompts_per_second": {n: [median[n], each[0], each[-1]] for n, each in rates.items()},
        "read_over_rendered": {
            what: round(median[f"{what} read"] / median[f"{what} rendered"], 1)
            for what in ("draws", "batches")
        },
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
