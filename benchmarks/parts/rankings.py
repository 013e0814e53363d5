"""Users a second over 12,101 items in three kinds of ids, and searches of millions of items."""

from __future__ import annotations

import argparse
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import catalogue
import numpy as np
import ranking
from catalogue import EOS, FIRST, popular, synthetic_ids, timed
from training import SIZES

from parts.cells import Cell, Place

BEAM, SOURCE = 20, 128
Ids = list[list[int]]


def kinds_of_ids(items: int, codes: int) -> dict[str, Ids]:
    """The catalogue's ids as decimal digits, as four codes, and as one token of each item's own."""
    return {
        "digits": [[*(FIRST + int(d) for d in str(n + 1)), EOS] for n in range(items)],
        "codes": synthetic_ids(items, codes).tolist(),
        "tokens": [[FIRST + n, EOS] for n in range(items)],
    }


def cells(place: Place) -> list[Cell]:
    """p5jax's first, then large catalogues, then transformers'."""
    size, items, codes, users = ("tiny", 300, 16, 4) if place.tiny else ("small", 12_101, 256, 64)
    found = []
    kinds = kinds_of_ids(items, codes)
    for name, ids in kinds.items() if not place.tiny else [("codes", kinds["codes"])]:
        weights = partial(_weights, place.work / f"rankings-{size}-{name}", ids, size)
        found.append(Cell(f"{name}, p5jax", partial(_ours, weights, ids, users), 15))
        if find_spec("torch") and find_spec("transformers"):
            found.append(Cell(f"{name}, torch", partial(_theirs, weights, ids, users), 15))
    large = [3000] if place.tiny else [1_000_000, 10_000_000]
    for count in large:
        least = count / 250_000  # most of it makes the trie
        found.append(Cell(f"{count} items", partial(_large, count, size, users), 10 + least))
    return sorted(found, key=lambda cell: cell.name.endswith("torch"))


def _weights(folder: Path, ids: Ids, size: str) -> Path:
    """A checkpoint that writes ids, some far more often than others, made once."""
    if not (folder / "done").exists():
        ranking.export_weights(folder, popular(ids), 10 if size == "tiny" else 100, size)
        (folder / "done").touch()
    return folder


def _sources(users: int, vocabulary: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    tokens = rng.integers(FIRST, vocabulary - 128, (users, SOURCE)).astype(np.int32)
    tokens[:, -1] = EOS
    return tokens


def _ours(weights: Any, ids: Ids, users: int, _: float) -> dict[str, Any]:
    from dataclasses import replace

    import jax

    from p5jax.inference.ranking import rank
    from p5jax.inference.trie import Trie
    from p5jax.models.checkpoints.hugging_face import import_hugging_face
    from p5jax.models.t5 import Transformer

    config, params = import_hugging_face(weights())
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    model, params = Transformer(replace(config, dtype=dtype)), jax.device_put(params)
    tokens, trie = _sources(users, config.vocab_size), jax.device_put(Trie.build(ids))
    found: dict[str, Any] = {"users": users, "nodes": trie.num_nodes}
    for method in ("certified", "exact"):

        def search(method: str = method) -> Any:
            return rank(model, params, tokens, trie, BEAM, method, beam=BEAM)

        taken = timed(search, 5)["ms"]
        sure = float(search().exact.mean())
        found[method] = {"ms": taken, "users_per_second": 1000 * users / taken, "guaranteed": sure}
    return found


def _theirs(weights: Any, ids: Ids, users: int, _: float) -> dict[str, Any]:
    args = argparse.Namespace(beam=BEAM)
    search = ranking.torch_ranker(weights(), ids, args)
    tokens = _sources(users, 512 if users < 8 else SIZES["small"][0])
    found: dict[str, Any] = {"users": users}
    for name in (ranking.FREE, ranking.CONSTRAINED):
        taken = timed(partial(search, name, tokens), 1)["ms"]
        found[name] = {"ms": taken, "users_per_second": 1000 * users / taken}
    return found


def _large(items: int, size: str, users: int, _: float) -> dict[str, Any]:
    import jax

    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    model = catalogue.sized_model(size, dtype)
    options = argparse.Namespace(users=users, beam=BEAM, source=SOURCE, excluded=20, rounds=5)
    return catalogue.measure(items, model, catalogue.random_params(model), options)
