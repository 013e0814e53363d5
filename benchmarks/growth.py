"""How time and memory of what is made of a catalogue grow with it.

    python benchmarks/growth.py [--items 62500 250000 1000000] [--parts ids neighbours ...]
                                [--limit SECONDS] [--folder DIR]

A generated shop: ten interactions a user, as many users as items, four in five of a user's items
from one of the groups of 500 items that make up the catalogue, the others from all of it, and
skewed; titles whose words are as frequent as words are, a brand and a category. Each part runs in
a process of its own, on a dataset folder with `token` ids that is prepared once for each size.
Figures: seconds by the clock and of the processor, after the dataset is loaded, and the peak of
the process' memory, loading included.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hardware import available_cores, describe

from p5jax.data.building import build_dataset
from p5jax.data.dataset import Dataset
from p5jax.data.readers.raw import RawData
from p5jax.data.readers.texts import SCHEMA, TEXT, Texts

EACH, GROUP, NEAR = 10, 500, 0.8  # interactions of a user, items of a group, the share from it
Timer = Callable[[str], Any]


def shop(items: int, seed: int = 0) -> RawData:
    """Generated interactions, ten for each of as many users as items; every item has one."""
    rng = np.random.default_rng(seed)
    rows, groups = items * EACH, max(1, items // GROUP)
    user = np.repeat(np.arange(items, dtype=np.int32), EACH)
    own = np.repeat(rng.integers(0, groups, items), EACH)
    item = own * GROUP + (GROUP * rng.random(rows) ** 2).astype(np.int64)
    anywhere = rng.random(rows) > NEAR
    item[anywhere] = (items * rng.random(anywhere.sum()) ** 2).astype(np.int64)
    item[::EACH] = rng.permutation(items)
    nothing = pa.nulls(rows, TEXT)
    texts = Texts.of(pa.table([nothing, nothing], SCHEMA))
    words = int(30 * items**0.5)  # the vocabulary grows as the root of the text
    drawn = (words * rng.random((items, 4)) ** 3).astype(int)
    kinds, brands = rng.integers(0, 500, items), rng.integers(0, max(1, items // 20), items)
    columns = {
        "title": [" ".join(f"w{word}" for word in row) for row in drawn.tolist()],
        "brand": [f"brand{number}" for number in brands.tolist()],
        "categories": [f"kind{number}" for number in kinds.tolist()],
        "price": [None] * items,
    }
    return RawData(
        name="shop",
        format="generated",
        user_keys=[f"u{number}" for number in range(items)],
        item_keys=[f"i{number}" for number in range(items)],
        user=user,
        item=np.minimum(item, items - 1).astype(np.int32),
        rating=rng.integers(1, 6, rows).astype(np.float32),
        timestamp=rng.integers(1_300_000_000, 1_600_000_000, rows),
        texts=texts,
        user_columns={"name": [None] * items},
        item_columns=columns,
        time_unit="second",
        line=np.zeros(rows, np.uint32),
    )


def ids(scheme: str, dataset: Dataset, timer: Timer) -> None:
    """Ids of a scheme, and the trie of them."""
    from p5jax.data.item_ids import ID_TOKEN, IdSource, assign_item_ids, id_tokens
    from p5jax.data.item_vectors import item_texts
    from p5jax.inference.trie import Trie

    texts = item_texts(dataset.items)
    source = IdSource(dataset.training_sequences, dataset.num_items, 0, texts=texts)
    with timer(f"{scheme} ids"):
        made = assign_item_ids(scheme, source)
    number = {token: place + 3 for place, token in enumerate(id_tokens(made))}
    tokens = [[*(number[token] for token in ID_TOKEN.findall(text)), 1] for text in made]
    with timer(f"trie of {scheme} ids"):
        Trie.build(tokens)


def neighbours(dataset: Dataset, timer: Timer) -> None:
    """Co-occurrence of all training pairs, damped."""
    from p5jax.memory.histories import training_counts
    from p5jax.memory.neighbours import damped, pairs

    with timer("neighbours in sequences"):
        damped(pairs(dataset), training_counts(dataset))


def texts(dataset: Dataset, timer: Timer) -> None:
    """The nearest texts of each item."""
    from p5jax.data.item_vectors import item_texts
    from p5jax.memory.neighbours import near_texts

    with timer("neighbours by texts"):
        near_texts(item_texts(dataset.items))


def vectors(dataset: Dataset, timer: Timer) -> None:
    """Item vectors, of which semantic ids are made."""
    from p5jax.data.item_vectors import item_texts, item_vectors

    with timer("item vectors"):
        item_vectors(dataset.training_sequences, item_texts(dataset.items))


def leaks(dataset: Dataset, timer: Timer) -> None:
    """The audit's search for leaks in the tables."""
    from p5jax.data.leaks import find_leaks

    with timer("leaks in the tables"):
        assert find_leaks(dataset) == []


def audit(dataset: Dataset, timer: Timer) -> None:
    """The whole audit."""
    import p5jax

    with timer("audit"):
        assert p5jax.audit(dataset)["leaks"] == []


PARTS: dict[str, Callable[[Dataset, Timer], None]] = {
    "token": lambda dataset, timer: ids("token", dataset, timer),
    "neighbours": neighbours,
    "leaks": leaks,
    "texts": texts,
    "vectors": vectors,
    "collaborative": lambda dataset, timer: ids("collaborative", dataset, timer),
    "semantic": lambda dataset, timer: ids("semantic", dataset, timer),
    "audit": audit,
}


@contextmanager
def _timed(items: int, name: str) -> Iterator[None]:
    clock, spent = time.perf_counter(), time.process_time()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if platform.system() == "Darwin" else 1024  # bytes there, KiB elsewhere
    found = {
        "items": items,
        "part": name,
        "seconds": round(time.perf_counter() - clock, 1),
        "processor_seconds": round(time.process_time() - spent, 1),
        "peak_gib": round(peak * unit / 2**30, 2),
    }
    print(json.dumps(found), flush=True)


def prepare(items: int, folder: str) -> None:
    """Write the dataset folder of a size."""
    raw = shop(items)
    with _timed(items, "prepare"):
        build_dataset(raw, folder, scheme="token", k_core=1)


def part(items: int, folder: str, name: str) -> None:
    """Run one part on a dataset folder."""
    dataset = Dataset.load(folder)
    PARTS[name](dataset, lambda what: _timed(items, what))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[62_500, 250_000, 1_000_000])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--limit", type=float, help="stop a part after so many seconds")
    parser.add_argument("--folder", type=Path, help="where datasets are kept for the next time")
    given = parser.parse_args()
    print(f"{describe(available_cores())}; load {os.getloadavg()[0]:.1f}", flush=True)
    context = multiprocessing.get_context("spawn")

    def run(function: Callable[..., None], *arguments: object) -> None:
        worker = context.Process(target=function, args=arguments)
        worker.start()
        worker.join(given.limit)
        if worker.is_alive():
            worker.kill()
            worker.join()
            print(f"{arguments}: more than {given.limit:g} s", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        for items in given.items:
            folder = str((given.folder or Path(temporary)) / f"shop-{items}")
            if not Path(folder).exists():
                run(prepare, items, folder)
            for name in given.parts:
                run(part, items, folder, name)


if __name__ == "__main__":
    main()
