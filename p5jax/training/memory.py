"""What a training step takes of each device's memory, from sizes, batch and mesh."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
from jax.sharding import AbstractMesh

from p5jax.models.t5 import T5Config, Transformer, init_params, param_axes
from p5jax.parallel.partitioning import DATA, MODEL, param_shardings, state_shardings
from p5jax.training.optimizer import OptimizerConfig, make_optimizer

FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class StepMemory:
    """Bytes on each device.

    Parameters and optimizer state stay. Activations, with the logits, are what the forward pass
    leaves for the backward pass, which frees them while gradients grow: the larger counts.
    """

    parameters: int
    optimizer: int
    gradients: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """Bytes at the step's peak."""
        state = self.parameters + self.optimizer
        return state + max(self.gradients, self.activations + self.logits)


def step_memory(
    config: T5Config,
    optimizer: OptimizerConfig,
    rows: int,
    source_length: int,
    target_length: int,
    *,
    data: int = 1,
    model: int = 1,
    fsdp: bool = False,
) -> StepMemory:
    """Memory of a step on a global batch of `rows` padded rows, over a mesh `data x model`.

    Parameters and optimizer state are exact; the rest counts what XLA keeps on a CPU, and takes
    bfloat16 for two bytes. fsdp: parameters are split over `data` too, along "embed"; what XLA
    gathers of them in passing is not counted. UserError when the mesh does not divide a dimension.
    """
    parameters, state = _state_bytes(config, optimizer, data, model, fsdp)
    share = math.ceil(rows / data)
    return StepMemory(
        parameters=parameters,
        optimizer=state,
        gradients=2 * parameters,  # before and after clipping
        activations=share * _activation_bytes(config, source_length, target_length, model),
        # The logits, their log-softmax in passing, and their gradient.
        logits=share * 3 * FLOAT32 * target_length * config.vocab_size // model,
    )


def _state_bytes(
    config: T5Config, optimizer: OptimizerConfig, data: int, model: int, fsdp: bool
) -> tuple[int, int]:
    """Parameters and optimizer state, float32, as laid out on one device of the mesh."""
    # Any word starts and type of activations will do: no shape depends on them.
    params, axes = _shapes_and_axes(replace(config, word_starts=b"0", dtype="float32"))
    mesh: Any = AbstractMesh((data, model), (DATA, MODEL))  # no need of the devices themselves
    shardings = param_shardings(mesh, axes, params, fsdp)
    tx, _ = make_optimizer(optimizer, total_steps=1)
    state = jax.eval_shape(tx.init, params)
    return _bytes(params, shardings), _bytes(state, state_shardings(mesh, state, params, shardings))


@cache
def _shapes_and_axes(config: T5Config) -> tuple[Any, Any]:
    """The parameters' shapes and their logical axes; kept, since tracing a large model is slow."""
    transformer = Transformer(config)
    shapes = jax.eval_shape(lambda key: init_params(transformer, key), jax.random.key(0))
    return shapes, param_axes(transformer)


def _bytes(tree: Any, shardings: Any) -> int:
    """Bytes of one device's part of every array."""
    parts = jax.tree.map(
        lambda leaf, sharding: math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize,
        tree,
        shardings,
    )
    return sum(jax.tree.leaves(parts))


def _activation_bytes(config: T5Config, source: int, target: int, model: int) -> int:
    """What one row leaves for the backward pass, without the logits.

    `model` splits heads and the feed-forward dimension, not the embeddings.
    """
    width = {"float32": 4, "bfloat16": 2}[config.dtype]
    embed = config.emb_dim
    heads = config.num_heads / model
    inner = heads * config.head_dim  # queries, keys or values of one position
    # One branch: its activation, before and after dropout. Two: their inputs and product too.
    mlp = (2 if len(config.mlp_activations) == 1 else 5) * config.mlp_dim / model
    encoder = width * source * (6 * embed + 5 * inner + mlp)
    encoder += FLOAT32 * heads * source * source
    decoder = width * (target * (9 * embed + 8 * inner + mlp) + source * 2 * inner)
    decoder += FLOAT32 * heads * target * (target + source)
    ends = width * 10 * (source + target) * embed  # embeddings, final norms, their dropout
    return round(config.num_encoder_layers * encoder + config.num_decoder_layers * decoder + ends)
