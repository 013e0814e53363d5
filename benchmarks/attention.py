"""T5's attention, with its bias and mask, beside jax.nn.dot_product_attention.

    python benchmarks/attention.py [--rows 16] [--length 128] [--heads 8] [--head-dim 64]

The gradient of the sum of squares to queries, keys, values and bias, by turns, after a round that
compiles. Prints the largest difference of the two outputs, and for each the least and the median of
the rounds' seconds by the clock and by the processor. bfloat16 where there is an accelerator.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from hardware import available_cores, describe, warn_if_busy

from p5jax.models.attention import Attention
from p5jax.models.stacks import mask_bias


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"rows": 16, "length": 128, "heads": 8, "head-dim": 64, "rounds": 10}
    for name, usual in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    chosen = parser.parse_args()
    print(describe(available_cores()), f"load {warn_if_busy():.1f}", sep="; ")
    device = jax.devices()[0]
    dtype = "float32" if device.platform == "cpu" else "bfloat16"
    keys = jax.random.split(jax.random.key(0), 5)
    shape = (chosen.rows, chosen.length, chosen.heads, chosen.head_dim)  # [B, S, H, K]
    query, key, value = (jax.random.normal(each, shape, dtype) for each in keys[:3])
    bias = jax.random.normal(keys[3], (chosen.heads, chosen.length, chosen.length))  # [H, Q, S]
    seen = jax.random.bernoulli(keys[4], 0.7, (chosen.rows, 1, chosen.length, chosen.length))
    hidden = mask_bias(seen)
    width = chosen.heads * chosen.head_dim
    module = Attention(width, chosen.heads, chosen.head_dim, dtype=jnp.dtype(dtype))

    def ours(query, key, value, bias):
        return module.apply({}, query, key, value, bias, hidden, True, method="_attend")

    def theirs(query, key, value, bias):
        both = (bias + hidden).astype(dtype)
        return jax.nn.dot_product_attention(query, key, value, bias=both, scale=1.0)

    arrays = query, key, value, bias
    apart = jnp.max(jnp.abs((ours(*arrays) - theirs(*arrays)).astype(jnp.float32)))
    print(json.dumps({"device": device.device_kind, "dtype": dtype, "apart": float(apart)}))
    steps = {name: gradient(f) for name, f in {"p5jax": ours, "jax.nn": theirs}.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(chosen.rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter(), time.process_time()
            jax.block_until_ready(step(*arrays))
            times[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    for name, found in times.items():
        clock, process = zip(*found[1:], strict=True)
        row = {"s": least_and_median(clock), "process": least_and_median(process)}
        print(json.dumps({"attention": name, **row}))


def gradient(attention: Callable[..., jax.Array]) -> Callable[..., tuple[jax.Array, ...]]:
    """The compiled gradient of the sum of squares of what it returns."""

    def total(*arrays: jax.Array) -> jax.Array:
        return jnp.sum(attention(*arrays).astype(jnp.float32) ** 2)

    return jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))


def least_and_median(seconds: tuple[float, ...]) -> list[float]:
    """Both, to a tenth of a millisecond."""
    return [round(min(seconds), 4), round(statistics.median(seconds), 4)]


if __name__ == "__main__":
    main()
