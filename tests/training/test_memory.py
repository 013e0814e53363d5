"""The memory estimate and the guide made of it, against what XLA reserves for the real step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import device_memory
import jax
import pytest
from device_memory import compiled_memory

from p5jax.core.errors import UserError
from p5jax.models.t5 import T5Config, Transformer, init_params
from p5jax.training.memory import StepMemory, step_memory
from p5jax.training.optimizer import OptimizerConfig

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parents[1]
GUIDE = ROOT / "launch" / "README.md"
TINY = {
    "vocab_size": 512,
    "emb_dim": 64,
    "num_heads": 4,
    "head_dim": 16,
    "mlp_dim": 256,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "word_starts": bytes(64),
}
GATED = {"mlp_activations": ("gelu", "linear"), "logits_via_embedding": False}


def temporary(memory: StepMemory) -> int:
    return max(memory.gradients, memory.activations + memory.logits)


def on_four_devices(code: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": f"{TESTS}:{ROOT / 'benchmarks'}:{ROOT}",
    }
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


# What decides: gradients, source activations, logits.
CASES = [
    ({}, "adamw", 1, 32, 16),
    pytest.param(GATED, "adafactor", 8, 128, 24, marks=pytest.mark.check),
    ({"vocab_size": 8192}, "adamw", 4, 32, 64),
]


@pytest.mark.parametrize(("sizes", "optimizer", "rows", "source", "target"), CASES)
def test_estimate_is_what_xla_reserves(sizes, optimizer, rows, source, target):
    """State to the byte, the rest to a tenth."""
    config = T5Config(**(TINY | sizes))
    found = step_memory(config, OptimizerConfig(name=optimizer), rows, source, target)
    arguments, buffers = compiled_memory(config, optimizer, rows, source, target)
    batch = 4 * rows * (source + 3 * target)
    counter_and_key = 4 + 8
    # The compiled program leaves out Adafactor's placeholders, a number per parameter.
    placeholders = 0 if optimizer == "adamw" else 1000
    state = found.parameters + found.optimizer
    assert 0 <= state - (arguments - batch - counter_and_key) <= placeholders
    assert temporary(found) == pytest.approx(buffers, rel=0.1)


@pytest.mark.check
@pytest.mark.parametrize("mesh", [(2, 2), (1, 4)])
def test_estimate_on_a_mesh_of_four_devices(mesh):
    """A device's part: state to the byte, the rest to 15 %."""
    code = f"""
import json
from device_memory import compiled_memory
from test_memory import TINY, T5Config
print(json.dumps(compiled_memory(T5Config(**TINY), "adamw", 32, 64, 32, {mesh})))
"""
    done = on_four_devices(code)
    assert done.returncode == 0, done.stderr
    arguments, buffers = json.loads(done.stdout)
    data, model = mesh
    found = step_memory(T5Config(**TINY), OptimizerConfig(), 32, 64, 32, data=data, model=model)
    batch = 4 * 32 * (64 + 3 * 32) // data
    assert found.parameters + found.optimizer == arguments - batch - 12
    assert temporary(found) == pytest.approx(buffers, rel=0.15)


def test_state_is_the_bytes_of_the_arrays_on_a_mesh():
    """What a device of a mesh 2 x 2 holds of a real state, with fsdp and without."""
    code = """
from functools import partial
import jax
from test_memory import TINY, OptimizerConfig, T5Config, Transformer, init_params, step_memory
from p5jax.models.t5 import param_axes
from p5jax.parallel.partitioning import MeshConfig, make_mesh
from p5jax.training.optimizer import make_optimizer
from p5jax.training.objective import batch_sums
from p5jax.training.step import Steps
model, chosen = Transformer(T5Config(**TINY)), OptimizerConfig()
params = init_params(model, jax.random.key(0))
for fsdp in (False, True):
    steps = Steps(partial(batch_sums, model), make_optimizer(chosen, 10)[0],
                  make_mesh(MeshConfig(2, 2)), param_axes(model), params, seed=0, fsdp=fsdp)
    state, held = steps.init(params), {}
    state["state"].pop("step")  # the trainer's own counter
    for name, tree in (("parameters", state["target"]), ("optimizer", state["state"])):
        shards = [s for leaf in jax.tree.leaves(tree) for s in leaf.addressable_shards]
        held[name] = {sum(s.data.nbytes for s in shards if s.device == d) for d in jax.devices()}
    found = step_memory(model.config, chosen, 8, 64, 32, data=2, model=2, fsdp=fsdp)
    assert held == {"parameters": {found.parameters}, "optimizer": {found.optimizer}}, held
"""
    done = on_four_devices(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.check
@pytest.mark.parametrize(("optimizer", "rows"), [("adamw", 2), ("adafactor", 16)])
def test_estimate_of_t5_small(optimizer, rows):
    config = T5Config(vocab_size=32128, word_starts=bytes(64))
    found = step_memory(config, OptimizerConfig(name=optimizer), rows, 512, 128)
    _, buffers = compiled_memory(config, optimizer, rows, 512, 128)
    assert temporary(found) == pytest.approx(buffers, rel=0.15)


def test_fsdp_splits_all_that_has_embeddings():
    config = T5Config(**TINY)
    shapes = jax.eval_shape(lambda key: init_params(Transformer(config), key), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    positions = 2 * config.num_heads * config.relpos_buckets
    share = (count - positions) // 4 + positions
    found = step_memory(config, OptimizerConfig(), 8, 64, 32, data=4, fsdp=True)
    assert found.parameters == 4 * share
    # Adam's two moments, and the two counters of AdamW and its schedule.
    assert found.optimizer == 2 * 4 * share + 2 * 4
    whole = step_memory(config, OptimizerConfig(), 8, 64, 32, data=4)
    assert whole.parameters == 4 * count
    assert whole.activations == found.activations


def test_bfloat16_halves_what_is_kept_but_attention_weights_and_logits():
    wide, narrow = (
        step_memory(T5Config(**TINY, dtype=dtype), OptimizerConfig(), 8, 64, 32)
        for dtype in ("float32", "bfloat16")
    )
    attention = 8 * 4 * 4 * 2 * (64 * 64 + 32 * 32 + 32 * 64)  # rows, bytes, heads, layers
    assert narrow.activations - attention == (wide.activations - attention) / 2
    assert narrow.logits == wide.logits
    assert narrow.parameters == wide.parameters


def test_mesh_that_does_not_divide_the_model():
    with pytest.raises(UserError, match=r"multiple of the mesh's model=3"):
        step_memory(T5Config(**TINY), OptimizerConfig(), 8, 64, 32, model=3)
    with pytest.raises(UserError, match=r"multiple of the mesh's data=3"):
        step_memory(T5Config(**TINY), OptimizerConfig(), 8, 64, 32, data=3, fsdp=True)


# ---- the guide's tables ----


@pytest.mark.parametrize("table", [device_memory.one_device, device_memory.of_a_mesh])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("tiny", "mini") else pytest.mark.check)
        for name in device_memory.SIZES
    ],
)
def test_the_guide_shows_what_the_benchmark_prints(name, table):
    assert table(name) in GUIDE.read_text(encoding="utf-8").splitlines()
