"""Bytes that a training step takes of each device: the tables of launch/README.md.

    python benchmarks/device_memory.py [--compile tiny mini]

For each size of gin/models and T5-large, with T5's vocabulary, sources of 512 and targets of 128
tokens: the first table is for one device, the second for one device of a mesh. Parameters and
optimizer state are the bytes of the shapes that a device of the mesh holds, traced and not made;
what comes and goes in a step is p5jax.training.memory's count. --compile checks that count: the
real step of these sizes, compiled for this machine's CPU in float32, on one device and over a mesh
2 x 2, beside XLA's own analysis of its memory. Nothing here is timed, so any machine will do.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from p5jax.core.config import build, configure, register_configs
from p5jax.core.errors import UserError
from p5jax.models.t5 import T5Config, Transformer, init_params, param_axes
from p5jax.parallel.partitioning import logical_mesh
from p5jax.training.memory import StepMemory, step_memory
from p5jax.training.objective import batch_sums
from p5jax.training.optimizer import OptimizerConfig, make_optimizer
from p5jax.training.step import Steps

GIB, MIB = 2**30, 2**20
SOURCE, TARGET = 512, 128
DEVICES = (16, 24, 32, 40, 80)  # GiB of memory
SIZES = ("tiny", "mini", "small", "v1_1_small", "base", "v1_1_base", "large")
LARGE = T5Config(32128, 1024, 16, 24, 24, 64, 4096)
ROWS = 64
MESHES = {  # the guide's columns: data, model, fsdp
    "1 x 1": (1, 1, False),
    "8 x 1": (8, 1, False),
    "4 x 2": (4, 2, False),
    "2 x 4": (2, 4, False),
    "8 x 1, fsdp": (8, 1, True),
}


def sizes_of(name: str) -> T5Config:
    """A file of gin/models, or T5-large, with T5's vocabulary."""
    if name == "large":
        return LARGE
    register_configs(T5Config)
    configure([f"models/{name}.gin"])
    return build(T5Config, vocab_size=LARGE.vocab_size)


def memory_of(
    config: T5Config, optimizer: str = "adamw", rows: int = 1, mesh: str = "1 x 1"
) -> StepMemory:
    data, model, fsdp = MESHES[mesh]
    lengths = rows, SOURCE, TARGET
    chosen = OptimizerConfig(name=optimizer)
    return step_memory(config, chosen, *lengths, data=data, model=model, fsdp=fsdp)


def one_device(name: str) -> str:
    """State of both optimizers, one row in both types, and the rows that fit some devices."""
    config = sizes_of(name)
    adamw, adafactor = (memory_of(config, optimizer) for optimizer in ("adamw", "adafactor"))
    one = memory_of(replace(config, dtype="bfloat16"))
    state = one.parameters + one.optimizer
    per_row = one.activations + one.logits
    cells = [
        name,
        f"{adamw.parameters / 4e6:.0f} M",
        f"{(adamw.parameters + adamw.optimizer) / GIB:.2f}",
        f"{(adafactor.parameters + adafactor.optimizer) / GIB:.2f}",
        f"{(adamw.activations + adamw.logits) / MIB:.0f}",
        f"{per_row / MIB:.0f}",
    ]
    for device in DEVICES:
        left = 0.75 * device * GIB - state
        cells.append(str(int(left // per_row)) if left >= one.gradients else "-")
    return f"| {' | '.join(cells)} |"


def of_a_mesh(name: str) -> str:
    """State, and what a step adds to it, of one device of each mesh: bfloat16, AdamW."""
    config = replace(sizes_of(name), dtype="bfloat16")
    cells = [name]
    for mesh in MESHES:
        try:
            found = memory_of(config, rows=ROWS, mesh=mesh)
        except UserError:  # the mesh does not divide the heads
            cells.append("-")
            continue
        state = found.parameters + found.optimizer
        cells.append(f"{state / GIB:.2f} + {(found.total - state) / GIB:.2f}")
    return f"| {' | '.join(cells)} |"


def compiled_memory(
    config: T5Config, optimizer: str, rows: int, source: int, target: int, mesh=(1, 1)
) -> tuple[int, int]:
    """Bytes of the compiled step's arguments (state and batch) and of its temporary buffers."""
    model = Transformer(config)
    params = jax.eval_shape(partial(init_params, model), jax.random.key(0))
    tx, _ = make_optimizer(OptimizerConfig(name=optimizer), 10)
    grid = np.array(jax.devices()[: mesh[0] * mesh[1]]).reshape(mesh)
    devices = Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))
    steps = Steps(partial(batch_sums, model), tx, devices, param_axes(model), params, seed=0)

    def tokens(length, dtype=jnp.int32):
        return jax.ShapeDtypeStruct((rows, length), dtype)

    batch = {
        "encoder_input_tokens": tokens(source),
        "decoder_input_tokens": tokens(target),
        "decoder_target_tokens": tokens(target),
        "decoder_loss_weights": tokens(target, jnp.float32),
    }
    fold = jax.ShapeDtypeStruct((2,), jnp.uint32)
    with logical_mesh(devices):
        compiled = steps._fused.lower(steps.abstract_state, batch, fold).compile()
    analysis = compiled.memory_analysis()
    return analysis.argument_size_in_bytes, analysis.temp_size_in_bytes


def deviation(name: str, mesh: tuple[int, int]) -> str:
    """The count beside XLA's analysis, for as many rows as there are data groups, times 4."""
    config, (data, model) = replace(sizes_of(name), word_starts=bytes(LARGE.vocab_size // 8)), mesh
    rows = 4 * data
    found = step_memory(config, OptimizerConfig(), rows, SOURCE, TARGET, data=data, model=model)
    arguments, buffers = compiled_memory(config, "adamw", rows, SOURCE, TARGET, mesh)
    batch = 4 * rows * (SOURCE + 3 * TARGET) // data
    counter_and_key = 4 + 8
    state = found.parameters + found.optimizer
    counted = found.total - state
    return (
        f"{name}, {data} x {model}: state {state:,} bytes, XLA's"
        f" {arguments - batch - counter_and_key:,};"
        f" the rest {counted / MIB:.0f} MiB, XLA's {buffers / MIB:.0f}"
        f" ({100 * (counted / buffers - 1):+.1f} %)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", nargs="+", default=[], choices=SIZES, metavar="SIZE")
    chosen = parser.parse_args().compile
    if chosen:
        jax.config.update("jax_num_cpu_devices", 4)
        for name in chosen:
            for mesh in ((1, 1), (2, 2)):
                print(deviation(name, mesh), flush=True)
        return
    for table in (one_device, of_a_mesh):
        for name in SIZES:
            print(table(name), flush=True)
        print()


if __name__ == "__main__":
    main()
