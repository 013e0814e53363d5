"""Time and memory of `p5jax data prepare` on a generated Amazon-2018-style file, or on a table.

    python benchmarks/preparation.py [--reviews 1000000] [--item-ids sequential] [--memory 2]
    python benchmarks/preparation.py --interactions 20000000 [--form parquet]

The file has the format, the text lengths (about 80 words) and the skew of a real category; what the
sentences say does not matter. Beside it stands what unpacking and parsing its lines with `json`
takes in one process. A table has users, items, ratings and times, and no text. Seconds of processor
time are of all threads, on a machine that others use the steadier figure.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from p5jax.data.building import build_dataset
from p5jax.data.formats import MEMORY
from p5jax.data.prepare import read_raw

SENTENCES = 5000
WORDS = 3000
TABLE_ROWS = 2_000_000  # that are generated at once
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "zo")


def generate(folder: Path, reviews: int, seed: int = 0) -> tuple[Path, Path]:
    """Write a review and a metadata file; return their paths."""
    rng = np.random.default_rng(seed)
    users, items = reviews // 8, reviews // 25
    user = rng.integers(0, users, reviews)
    item = (items * rng.random(reviews) ** 2).astype(int)  # skewed: a tenth has a third of all
    stars = rng.choice([1, 2, 3, 4, 5], reviews, p=[0.08, 0.05, 0.09, 0.18, 0.60])
    days = rng.integers(14_000, 17_700, reviews)
    pool = _sentences(rng)
    path = folder / "Generated_5.json.gz"
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        for n in range(reviews):
            length = int(rng.geometric(1 / 6))
            text = " ".join(pool[s] for s in rng.integers(0, SENTENCES, length))
            record = {
                "overall": float(stars[n]),
                "verified": True,
                "reviewTime": "01 1, 2015",
                "reviewerID": f"A{user[n]:012d}",
                "asin": f"B{item[n]:09d}",
                "style": {"Size:": " Large"},
                "reviewerName": f"Reviewer {user[n]}",
                "reviewText": text,
                "summary": " ".join(text.split()[:5]),
                "unixReviewTime": int(days[n]) * 86_400,
            }
            file.write(json.dumps(record) + "\n")
    metadata = folder / "meta_Generated.json.gz"
    with gzip.open(metadata, "wt", compresslevel=1, encoding="utf-8") as file:
        for n in range(items):
            record = {
                "category": ["Made", "Up", f"Kind {n % 50}"],
                "description": [pool[n % SENTENCES]] * 3,
                "title": " ".join(pool[n % SENTENCES].split()[:8]),
                "brand": f"Brand {n % 997}",
                "price": f"${n % 90}.99",
                "asin": f"B{n:09d}",
            }
            file.write(json.dumps(record) + "\n")
    return path, metadata


def _sentences(rng: np.random.Generator) -> list[str]:
    """Return sentences of 4 to 25 words from a Zipf-like vocabulary, nouns after articles."""
    words = ["".join(rng.choice(SYLLABLES, rng.integers(2, 5))) for _ in range(WORDS)]
    common = [
        "the",
        "a",
        "is",
        "and",
        "it",
        "for",
        "with",
        "very",
        "this",
        "not",
        "good",
        "great",
        "of",
    ]
    sentences = []
    for _ in range(SENTENCES):
        length = int(rng.integers(4, 26))
        ranks = (WORDS * rng.random(length) ** 3).astype(int)
        parts = [
            common[int(rng.integers(0, len(common)))] if rng.random() < 0.5 else words[rank]
            for rank in ranks
        ]
        sentences.append(" ".join(parts).capitalize() + ".")
    return sentences


def generate_table(file: Path, rows: int, seed: int = 0) -> None:
    """Write a CSV or Parquet file of interactions without text, fifty a user."""
    rng = np.random.default_rng(seed)
    users, items = max(1, rows // 50), max(1, rows // 1000)
    writer = None
    for start in range(0, rows, TABLE_ROWS):
        here = min(TABLE_ROWS, rows - start)
        table = pa.table(
            {
                "user_id": rng.integers(0, users, here),
                "item_id": (items * rng.random(here) ** 2).astype(np.int64),
                "rating": rng.choice(5, here, p=[0.08, 0.05, 0.09, 0.18, 0.60]) + 1.0,
                "timestamp": rng.integers(1_200_000_000, 1_530_000_000, here),
            }
        )
        if writer is None:
            kinds = {".csv": pa.csv.CSVWriter, ".parquet": pq.ParquetWriter}
            writer = kinds[file.suffix](file, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def parse(reviews: Path, results: dict) -> None:
    """Parse the lines of a file, nothing else; put the seconds into `results`."""
    start = time.perf_counter()
    with gzip.open(reviews, "rb") as file:
        for line in file:
            json.loads(line)
    results["json_seconds"] = round(time.perf_counter() - start, 1)


def measure(
    format: str, options: dict, out: Path, scheme: str, memory: float, results: dict
) -> None:
    """Prepare in this process; put seconds, peak memory and counts into `results`."""
    start = time.perf_counter()
    raw = read_raw(format, **options, memory=memory)
    read = time.perf_counter()
    counts = build_dataset(raw, out, scheme=scheme, memory=memory)
    end = time.perf_counter()
    results["read_seconds"] = round(read - start, 1)
    results["prepare_seconds"] = round(end - read, 1)
    results["total_seconds"] = round(end - start, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if platform.system() == "Darwin" else 1024  # bytes there, KiB elsewhere
    results["peak_gib"] = round(peak * unit / 2**30, 2)
    results["counts"] = counts


def run(context: Any, function: Callable[..., None], *arguments: object) -> None:
    """Call a function in a process of its own."""
    worker = context.Process(target=function, args=arguments)
    worker.start()
    worker.join()
    if worker.exitcode:
        raise SystemExit(worker.exitcode)


def processor_seconds() -> float:
    """Return what all processes that have ended took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reviews", type=int, default=1_000_000)
    parser.add_argument("--interactions", type=int, help="a table of so many, without reviews")
    parser.add_argument("--form", choices=("csv", "parquet"), default="parquet")
    parser.add_argument("--item-ids", default="sequential")
    parser.add_argument("--memory", type=float, default=MEMORY)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.interactions:
            file = folder / f"interactions.{arguments.form}"
            generate_table(file, arguments.interactions)
            source: tuple[str, dict] = "table", {"interactions": [file]}
        else:
            file, metadata = generate(folder, arguments.reviews)
            source = "amazon", {"reviews": [file], "metadata": [metadata]}
        # fresh processes, so that the peak is that of the preparation alone
        context = multiprocessing.get_context("spawn")
        with context.Manager() as manager:
            results = manager.dict()
            if not arguments.interactions:
                run(context, parse, file, results)
                results["json_processor_seconds"] = round(processor_seconds(), 1)
            before = processor_seconds()
            options = arguments.item_ids, arguments.memory, results
            run(context, measure, *source, folder / "dataset", *options)
            results["processor_seconds"] = round(processor_seconds() - before, 1)
            report = {
                "file": file.name,
                "item_ids": arguments.item_ids,
                "file_mib": round(file.stat().st_size / 2**20, 1),
                "cores": os.cpu_count(),
                "load": os.getloadavg(),
                **results,
            }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
