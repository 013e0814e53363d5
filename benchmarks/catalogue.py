"""A search of catalogues of any size: its time, what the trie costs of it, and its bytes.

    python benchmarks/catalogue.py [--items 12101 1000000] [--users 8] [--beam 20] [--source 128]
                                   [--excluded 20] [--size tiny|small] [--rounds 10]
                                   [--out FILE.json]

Items are distinct random numbers below 256 ** 4, their ids the four bytes as tokens of their own
and the end of sequence, as semantic ids are. Weights are random, activations float32 on CPU and
bfloat16 elsewhere. A round is one search of `--users` sources by `certified`, `--excluded` items
left out of each, the trie beside the parameters; and the same calls of the encoder and the decoder
alone, with as many rows. What the search takes longer is the trie's: looking up edges, leaving
items out, choosing the best. Least of the rounds, after a warm-up round; `process` is the
processor's time.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hardware import available_cores, describe, warn_if_busy
from training import SIZES

FIRST, BYTES, EOS = 3, 4, 1


def synthetic_ids(count: int, codes: int = 256) -> np.ndarray:
    """The tokens of `count` distinct random ids: [count, 5] int64."""
    rng = np.random.default_rng(0)
    numbers = np.unique(rng.integers(codes**BYTES, size=count + count // 8 + 64))
    while len(numbers) < count:  # few codes make many equals
        numbers = np.unique(np.append(numbers, rng.integers(codes**BYTES, size=count)))
    numbers = rng.permutation(numbers)[:count]
    digits = numbers[:, None] // codes ** np.arange(BYTES)[::-1] % codes
    tokens = FIRST + codes * np.arange(BYTES) + digits
    return np.pad(tokens, ((0, 0), (0, 1)), constant_values=EOS)


def popular(ids: list[list[int]]) -> list[list[int]]:
    """Ids to learn from, the first far more often than the last, as items are bought.

    A model that has learned them tells the best items from the others, and a search can be sure.
    """
    return [id for n, id in enumerate(ids) for _ in range(1 + int(2 * len(ids) / (n + 1) ** 1.5))]


def sized_model(size: str, dtype: str) -> Any:
    """A T5 of a size of `training.SIZES`, without dropout."""
    from p5jax.models.t5 import T5Config, Transformer

    vocab, width, heads, head, mlp, layers = SIZES[size]
    vocab = max(vocab, FIRST + 256 * BYTES + 1)
    sizes = (vocab, width, heads, layers, layers, head, mlp)
    return Transformer(T5Config(*sizes, dropout_rate=0.0, dtype=dtype, whole_words=False))


def random_params(model: Any) -> Any:
    """Random weights of a model, on the device."""
    import jax

    from p5jax.models.t5 import init_params

    return jax.jit(partial(init_params, model))(jax.random.key(0))


def model_alone(beam: int) -> Any:
    """A function of (model, params, sources, trie) that does what a search asks of the model."""
    import jax
    import jax.numpy as jnp

    from p5jax.inference.rows import Decoder, begin, decode_rows, keep, log_likelihood
    from p5jax.inference.steps import read_source

    @partial(jax.jit, static_argnums=0)
    def run(model: Any, params: Any, tokens: Any, trie: Any) -> Any:
        users = tokens.shape[0]
        decoder = Decoder(model, params, read_source(model, params, tokens), "vocabulary", 1 << 25)
        kept, past = begin(decoder, jnp.zeros((users, 0), jnp.int32))
        total = jnp.zeros(())
        for level in trie.levels:
            count = min(beam, level.nodes)
            past = jnp.resize(past, (users, count, past.shape[2]))
            fed = trie.node_tokens[level.first : level.first + count, : level.length]
            fed = jnp.broadcast_to(fed, (users, *fed.shape))
            logits, grown = decode_rows(decoder, kept, past, fed)
            kept, past = keep(kept, grown, past, level.length)
            total += jax.nn.logsumexp(logits[:, :, -1], axis=2).sum()
        if trie.tail.shape[1] > 1:
            fed = jnp.broadcast_to(trie.tail[:beam], (users, beam, trie.tail.shape[1]))
            past = jnp.resize(past, (users, beam, past.shape[2]))
            logits, _ = decode_rows(decoder, kept, past, fed[:, :, :-1])
            total += log_likelihood(logits, fed[:, :, 1:]).sum()
        return total

    return run


def timed(call: Any, rounds: int) -> dict[str, float]:
    """The least milliseconds of a call, by the clock and of the processor, after a warm-up."""
    taken = []
    for _ in range(rounds + 1):
        clock, process = time.perf_counter(), time.process_time()
        call()
        taken.append((time.perf_counter() - clock, time.process_time() - process))
    clock, process = 1000 * np.min(taken[1:], axis=0)
    return {"ms": float(clock), "process_ms": float(process)}


def measure(items: int, model: Any, params: Any, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one catalogue, JSON-able."""
    import jax

    from p5jax.inference.ranking import rank
    from p5jax.inference.trie import Trie

    start = time.perf_counter()
    trie = Trie.build(synthetic_ids(items).tolist())
    built = time.perf_counter() - start
    trie = jax.device_put(trie)
    rng = np.random.default_rng(1)
    tokens = rng.integers(FIRST, 250, (args.users, args.source)).astype(np.int32)
    exclude = rng.integers(items, size=(args.users, args.excluded))

    def search() -> None:
        rank(model, params, tokens, trie, args.beam, beam=args.beam, exclude=exclude)

    alone = model_alone(args.beam)
    found = timed(search, args.rounds)
    least = timed(lambda: alone(model, params, tokens, trie).block_until_ready(), args.rounds)
    return {
        "items": items,
        "levels": [level.nodes for level in trie.levels],
        "build_seconds": built,
        "trie_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(trie)),
        "search": found,
        "model_alone": least,
        "ms_per_level": found["ms"] / len(trie.levels),
        "users_per_second": 1000 * args.users / found["ms"],
        "share_of_the_trie": 1 - least["ms"] / found["ms"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[12_101, 1_000_000])
    defaults = (("users", 8), ("beam", 20), ("source", 128), ("excluded", 20), ("rounds", 10))
    for name, default in defaults:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    from p5jax.parallel import runtime

    runtime.set_up()
    import jax

    load = warn_if_busy()
    model = sized_model(args.size, "float32" if jax.default_backend() == "cpu" else "bfloat16")
    params = random_params(model)
    print(describe(available_cores()))
    found = []
    for items in args.items:
        found.append(measure(items, model, params, args))
        print(json.dumps(found[-1]), flush=True)
    report = {"catalogues": found, "hardware": describe(available_cores()), "load_before": load}
    if args.out:
        args.out.write_text(json.dumps(report | {"options": vars(args)}, default=str) + "\n")


if __name__ == "__main__":
    main()
