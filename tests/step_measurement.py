"""What XLA says that a compiled training step takes of one device's memory."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from p5jax.models.t5 import T5Config, Transformer, init_params, param_axes
from p5jax.parallel.partitioning import logical_mesh
from p5jax.training.optimizer import OptimizerConfig, make_optimizer
from p5jax.training.step import Steps, batch_sums


def compiled_memory(
    config: T5Config, optimizer: str, rows: int, source: int, target: int, mesh=(1, 1)
) -> tuple[int, int]:
    """Bytes of the step's arguments (state and batch) and of its temporary buffers."""
    model = Transformer(config)
    params = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
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
