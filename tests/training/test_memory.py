"""The memory estimate and the guide made of it, against what XLA reserves for the real step."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from step_measurement import compiled_memory

from p5jax.core.errors import UserError
from p5jax.models.t5 import T5Config, Transformer, init_params
from p5jax.training.memory import StepMemory, step_memory
from p5jax.training.optimizer import OptimizerConfig

TESTS = Path(__file__).resolve().parent
GUIDE = TESTS.parents[1] / "launch" / "README.md"
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
from step_measurement import compiled_memory
from test_memory import TINY, T5Config
print(json.dumps(compiled_memory(T5Config(**TINY), "adamw", 32, 64, 32, {mesh})))
"""
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}:{TESTS.parents[1]}",
    }
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    arguments, buffers = json.loads(done.stdout)
    data, model = mesh
    found = step_memory(T5Config(**TINY), OptimizerConfig(), 32, 64, 32, data=data, model=model)
    batch = 4 * 32 * (64 + 3 * 32) // data
    assert found.parameters + found.optimizer == arguments - batch - 12
    assert temporary(found) == pytest.approx(buffers, rel=0.15)


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


# ---- the guide's table ----

SIZES = {
    "mini": T5Config(32128, 256, 4, 4, 4, 64, 1024),
    "small": T5Config(32128, 512, 8, 6, 6, 64, 2048),
    "base": T5Config(32128, 768, 12, 12, 12, 64, 3072),
    "large": T5Config(32128, 1024, 16, 24, 24, 64, 4096),
}
GIB = 2**30


def guide_row(name: str) -> str:
    """State of both optimizers, one row in both types, and the rows that fit some devices."""
    config = SIZES[name]
    narrow = T5Config(**(vars(config) | {"dtype": "bfloat16"}))
    adamw, adafactor = (
        step_memory(config, OptimizerConfig(name=optimizer), 1, 512, 128)
        for optimizer in ("adamw", "adafactor")
    )
    one = step_memory(narrow, OptimizerConfig(), 1, 512, 128)
    state = one.parameters + one.optimizer
    per_row = one.activations + one.logits
    cells = [
        name,
        f"{adamw.parameters / 4e6:.0f} M",
        f"{(adamw.parameters + adamw.optimizer) / GIB:.2f}",
        f"{(adafactor.parameters + adafactor.optimizer) / GIB:.2f}",
        f"{(adamw.activations + adamw.logits) / 2**20:.0f}",
        f"{per_row / 2**20:.0f}",
    ]
    for device in (16, 24, 32, 40, 80):
        left = 0.75 * device * GIB - state
        cells.append(str(int(left // per_row)) if left >= one.gradients else "-")
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize(
    "name",
    ["mini", "small", *(pytest.param(n, marks=pytest.mark.check) for n in ("base", "large"))],
)
def test_guide_shows_what_the_estimate_says(name):
    written = re.search(rf"^\| {name} .*$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert written
    assert written[0] == guide_row(name)
