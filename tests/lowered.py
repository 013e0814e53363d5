"""The product's programs lowered for GPUs and TPUs, of shapes alone; as a script, over a mesh.

What is lowered is what the product calls: only the arrays are not there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.sharding import Mesh

from p5jax.core.config import build, configure, register_configs
from p5jax.inference.decoding import beam_search, greedy, sample
from p5jax.inference.ranking import search_prompt
from p5jax.inference.search import Width
from p5jax.inference.trie import Trie
from p5jax.models.initial import fresh_params
from p5jax.models.t5 import T5Config, Transformer, init_params, param_axes
from p5jax.parallel.partitioning import MeshConfig, batch_sharding, make_mesh, param_shardings
from p5jax.ppr.generator import PromptConfig
from p5jax.ppr.profiles import Profiles
from p5jax.ppr.soft.t5_backbone import TRAINABLE, SoftBackbone
from p5jax.training.objective import OPTIONAL, REQUIRED, batch_sums
from p5jax.training.optimizer import OptimizerConfig, make_optimizer
from p5jax.training.step import Steps
from p5jax.triggers.gradients import Gradients, add_gradients, best_tokens, slot_gradients

PLATFORMS = ("cuda", "tpu")
WORDS, ROWS, SOURCE, TARGET, ITEMS = 512, 8, 64, 16, 300  # no shape decides what can be lowered
MESHES = {"1x1": MeshConfig(1, 1), "4x2": MeshConfig(4, 2), "fsdp": MeshConfig(8, 1, fsdp=True)}


def lowered(function: Callable[..., Any], *shapes: Any) -> export.Exported:
    """A function of arrays of these shapes, for all PLATFORMS at once."""
    return export.export(jax.jit(function), platforms=PLATFORMS)(*shapes)


def model_of(size: str, dtype: str = "bfloat16") -> Transformer:
    """The model of a file in gin/models/, with few words."""
    register_configs(T5Config)
    configure([f"models/{size}.gin"])
    starts = bytes(WORDS // 8)
    return Transformer(build(T5Config, vocab_size=WORDS, dtype=dtype, word_starts=starts))


def params_of(model: Transformer, mesh: Mesh | None = None) -> Any:
    """The shapes of a model's parameters, laid out over a mesh."""
    shapes = jax.eval_shape(partial(init_params, model), jax.random.key(0))
    if mesh is None:
        return shapes
    shardings = param_shardings(mesh, param_axes(model), shapes)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def rows_of(width: int, mesh: Mesh | None = None, dtype: Any = jnp.int32) -> Any:
    sharding = None if mesh is None else batch_sharding(mesh)
    return jax.ShapeDtypeStruct((ROWS, width), dtype, sharding=sharding)


def batch_of(packed: bool = True) -> dict[str, Any]:
    names = (*REQUIRED, *(OPTIONAL if packed else ()))
    batch = {name: rows_of(SOURCE if name.startswith("encoder") else TARGET) for name in names}
    return batch | {"decoder_loss_weights": rows_of(TARGET, dtype=jnp.float32)}


def train_step(model: Transformer, mesh: str = "1x1", accumulate: int = 1) -> export.Exported:
    config = MESHES[mesh]
    steps = Steps(
        partial(batch_sums, model),
        make_optimizer(OptimizerConfig(), total_steps=10)[0],
        make_mesh(config),
        param_axes(model),
        params_of(model),
        seed=0,
        accumulate=accumulate,
        fsdp=config.fsdp,
    )
    batches = [batch_of()] * accumulate
    return lowered(
        lambda state, batches: steps.update(state, batches, 0), steps.abstract_state, batches
    )


def soft_step(model: Transformer) -> export.Exported:
    """The step that trains a soft prefix against a frozen T5."""
    profiles = Profiles(("age", "gender"), np.zeros((9, 2), np.int32), (4, 3))
    run = SimpleNamespace(model=model, children=None)  # its likelihood is over the vocabulary
    backbone = SoftBackbone(run, PromptConfig(2), profiles, "arguments")
    codes = profiles.codes_UxM[:1]
    soft = jax.eval_shape(lambda key: fresh_params(backbone.prompt, key, codes), jax.random.key(0))
    steps = Steps(
        backbone.objective(),
        make_optimizer(OptimizerConfig(), total_steps=10)[0],
        make_mesh(MESHES["1x1"]),
        {"t5": param_axes(model), "soft": backbone.axes()},
        {"t5": params_of(model), "soft": soft},
        seed=0,
        trainable=TRAINABLE,
    )
    batch = batch_of(packed=False) | {"users": jax.ShapeDtypeStruct((ROWS,), jnp.int32)}
    return lowered(
        lambda state, batch: steps.update(state, [batch], 0), steps.abstract_state, batch
    )


def search(model: Transformer, method: str = "certified", mesh: str = "") -> export.Exported:
    """The search of ids of three random digits with an end, some of them with a tail."""
    devices = make_mesh(MESHES[mesh]) if mesh else None
    ids = np.random.default_rng(0).choice(20**3, ITEMS, replace=False)
    trie = Trie.build([[3 + i // 400, 3 + i // 20 % 20, 3 + i % 20, 1] for i in ids.tolist()])
    width = Width(trie.widest, 64) if method == "exact" else Width(8, 8, method == "beam")

    def run(params: Any, tokens: Any, begun: Any, exclude: Any) -> Any:
        return search_prompt(model, params, tokens, begun, trie, exclude, width).found

    rows = partial(rows_of, mesh=devices)
    return lowered(run, params_of(model, devices), rows(SOURCE), rows(3), rows(32))


def greedy_text(model: Transformer) -> export.Exported:
    return lowered(lambda p, x: greedy(model, p, x, TARGET), params_of(model), rows_of(SOURCE))


def sampled_text(model: Transformer) -> export.Exported:
    def run(params: Any, tokens: Any) -> Any:
        return sample(model, params, tokens, TARGET, jax.random.key(0), 0.7, 0.9)

    return lowered(run, params_of(model), rows_of(SOURCE))


def best_text(model: Transformer) -> export.Exported:
    return lowered(lambda p, x: beam_search(model, p, x, TARGET), params_of(model), rows_of(SOURCE))


def trigger_gradients(model: Transformer) -> export.Exported:
    """A batch's gradients, their sums, and the tokens that these point to."""
    width = model.config.emb_dim

    def run(params: Any, tokens: Any, positions: Any, targets: Any, scored: Any) -> Any:
        slots = slot_gradients(model, params, tokens, positions, targets, scored)
        so_far = Gradients(jnp.zeros((3, width)), jnp.zeros((5, 1, width)))
        task, users = add_gradients(so_far, slots, jnp.zeros(ROWS, jnp.int32))
        table, allowed = params["token_embedder"]["embedding"], jnp.ones(WORDS, bool)
        return best_tokens(task, table, allowed, jnp.zeros(3, jnp.int32), 4, WORDS), users

    arrays = (rows_of(SOURCE), rows_of(4), rows_of(TARGET), rows_of(TARGET, dtype=jnp.float32))
    return lowered(run, params_of(model), *arrays)


PROGRAMS: dict[str, Callable[[Transformer], export.Exported]] = {
    "train step": train_step,
    "accumulated step": partial(train_step, accumulate=2),
    "soft prefix step": soft_step,
    "certified search": search,
    "exact search": partial(search, method="exact"),
    "textbook beam": partial(search, method="beam"),
    "greedy text": greedy_text,
    "sampled text": sampled_text,
    "best text": best_text,
    "trigger gradients": trigger_gradients,
}
ON_MESHES: dict[str, Callable[[Transformer], export.Exported]] = {
    "train step, data x model": partial(train_step, mesh="4x2"),
    "train step, fsdp": partial(train_step, mesh="fsdp"),
    "certified search, data x model": partial(search, mesh="4x2"),
}

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    found = {}
    for name, program in ON_MESHES.items():
        made = program(model_of(sys.argv[1]))
        found[name] = [made.platforms, made.nr_devices]
    print(json.dumps(found))
