"""A training step of a catalogue of a token an item, its logits made a few positions at a time.

    python benchmarks/logits.py [--items 1000000] [--rows 16] [--target 16] [--size tiny]
                                [--lengths 0 8 2] [--rounds 5]

For each ObjectiveConfig.logits_length (0: all positions at once) the compiled step's temporary
memory, by XLA's own analysis, and its time. Random weights and tokens; a step is the loss and its
gradient, without the optimizer's. A round takes every length in turn; `s` is the least of the
rounds by the clock, `process` by the processor.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from functools import partial

import jax
import numpy as np
from device_memory import SIZES, sizes_of
from hardware import available_cores, describe, warn_if_busy

from p5jax.models.t5 import Transformer, init_params
from p5jax.training.objective import ObjectiveConfig, batch_sums

WORDS, SOURCE = 1000, 32


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--target", type=int, default=16)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--lengths", type=int, nargs="+", default=[0, 8, 2])
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    print(describe(available_cores()), f"load {warn_if_busy():.1f}", sep="; ")
    vocabulary = -(-(WORDS + chosen.items) // 128) * 128
    config = replace(sizes_of(chosen.size), vocab_size=vocabulary, whole_words=False)
    model = Transformer(config)
    params = jax.jit(partial(init_params, model))(jax.random.key(0))
    batch = batch_of(vocabulary, chosen.rows, chosen.target)
    steps = {length: compiled(model, params, batch, length) for length in chosen.lengths}
    times = {length: [] for length in steps}
    for turn in range(chosen.rounds + 1):
        for length, step in steps.items():
            began = time.perf_counter(), time.process_time()
            jax.block_until_ready(step(params, batch, jax.random.key(turn)))
            times[length].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    for length, step in steps.items():
        memory = step.memory_analysis().temp_size_in_bytes
        clock, process = (min(each) for each in zip(*times[length][1:], strict=True))
        found = {"temporary_mib": memory // 2**20, "s": round(clock, 2)}
        print(json.dumps({"logits_length": length, **found, "process": round(process, 2)}))


def batch_of(vocabulary: int, rows: int, target: int) -> dict[str, np.ndarray]:
    """Sources of words, and lists of items as answers."""
    rng = np.random.default_rng(0)
    targets = rng.integers(WORDS, vocabulary, (rows, target)).astype(np.int32)
    return {
        "encoder_input_tokens": rng.integers(2, WORDS, (rows, SOURCE)).astype(np.int32),
        "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones((rows, target), np.float32),
    }


def compiled(model, params, batch, length):
    """The loss's gradient, ready to run."""
    sums = partial(batch_sums, model, config=ObjectiveConfig(logits_length=length))
    gradient = jax.grad(lambda *each: sums(*each)[0])
    return jax.jit(gradient).lower(params, batch, jax.random.key(0)).compile()


if __name__ == "__main__":
    main()
