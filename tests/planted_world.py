"""A model to which one word matters: with it in the prompt it knows the next item, else it guesses.

Items stand in a ring and every user walks along it. The model is trained on prompts that end with
random words: where the planted word is among them the answer is the next item, otherwise any item.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pyarrow as pa
from trigger_run import TINY, random_run

from p5jax.data.writing import write_dataset
from p5jax.triggers.gradients import example_nll

ITEMS, USERS, WORDS = 24, 96, 3
STEPS, BATCH, WIDTH = 900, 64, 32
MODEL = replace(TINY, emb_dim=32, head_dim=16, mlp_dim=64)


def write_ring(path):
    """Users who walk along a ring of items, each from a place of its own."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        start, count = int(rng.integers(ITEMS)), int(rng.integers(6, 10))
        for place in range(count):
            split = {1: 2, 2: 1}.get(count - place, 0)
            item = (start + place) % ITEMS
            rows.append((user, item, None, place, split))
    names = ("user", "item", "rating", "timestamp", "split")
    types = (pa.int32(), pa.int32(), pa.float32(), pa.int64(), pa.int8())
    schema = pa.schema(list(zip(names, types, strict=True)))
    table = pa.table([pa.array(c, t) for c, t in zip(zip(*rows, strict=True), types, strict=True)],
                     schema=schema)  # fmt: skip
    texts = ("headline", "text", "feature", "sentence")
    nothing = pa.nulls(ITEMS, pa.string())
    write_dataset(
        path,
        name="ring",
        format="test",
        sources=[],
        protocol={},
        counts={},
        users=pa.table(
            {
                "user": np.arange(USERS, dtype=np.int32),
                "key": [f"U{u}" for u in range(USERS)],
                "name": pa.nulls(USERS, pa.string()),
            }
        ),
        items=pa.table(
            {
                "item": np.arange(ITEMS, dtype=np.int32),
                "key": [f"I{i}" for i in range(ITEMS)],
                "title": nothing,
                "brand": nothing,
                "categories": nothing,
                "price": nothing,
                "item_id": [f"<i0_{i}>" for i in range(ITEMS)],
            }
        ),
        interactions=table,
        reviews=pa.Table.from_pylist(
            [], schema=pa.schema([*schema, *((n, pa.string()) for n in texts)])
        ),
        item_ids={"scheme": "token", "seed": 0, "leaky": False},
    )
    return path


def planted_run(folder):
    """The trained run and its planted token."""
    run = random_run(write_ring(folder / "ring"), folder / "run", vocabulary_size=400, model=MODEL)
    words = np.flatnonzero(run.vocabulary.trigger_tokens)
    planted = int(words[len(words) // 2])
    tx = optax.adam(optax.linear_schedule(5e-3, 0.0, STEPS))

    @jax.jit
    def step(params, state, tokens, targets):
        def loss(params):
            embedded = run.model.apply({"params": params}, tokens, method="embed")
            return example_nll(run.model, params, embedded, tokens, targets, targets > 0).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    params, state = run.params, tx.init(run.params)
    rng = np.random.default_rng(1)
    for number in range(STEPS):
        tokens, targets = _batch(run, words, planted, rng)
        params, state, value = step(params, state, tokens, targets)
        if number % 100 == 99:
            jax.block_until_ready(value)
    return run.with_params(jax.tree.map(jnp.asarray, params)), planted


def _batch(run, words, planted, rng):
    ids = [run.vocabulary.encode(f"<i0_{item}>")[0] for item in range(ITEMS)]
    comma = run.vocabulary.encode(",")
    tokens = np.zeros((BATCH, WIDTH), np.int32)
    targets = np.zeros((BATCH, 2), np.int32)
    for row in range(BATCH):
        start, count = int(rng.integers(ITEMS)), int(rng.integers(2, 8))
        said = run.vocabulary.encode(f"user_{1 + int(rng.integers(USERS))}")
        for place in range(count):
            said += [*(comma if place else []), ids[(start + place) % ITEMS]]
        ends = rng.choice(words, WORDS)
        if rng.random() < 0.5:
            ends[int(rng.integers(WORDS))] = planted
        answer = start + count if planted in ends else int(rng.integers(ITEMS))
        said += [*ends.tolist(), run.vocabulary.eos_id]
        tokens[row, : len(said)] = said
        targets[row] = ids[answer % ITEMS], run.vocabulary.eos_id
    return tokens, targets
