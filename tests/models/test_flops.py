"""The count of a step's operations against what XLA counts in the step."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from p5jax.models.flops import training_flops
from p5jax.models.t5 import T5Config, Transformer, init_params
from p5jax.training.objective import loss_fn

# Wide models, so that what XLA counts beside the products (norms, softmax, the bias) is small.
WIDE = T5Config(
    *(1024, 1024, 8, 2, 2, 128, 4096), dropout_rate=0.0, whole_words=False, relpos_buckets=8
)
GATED = T5Config(
    *(4096, 768, 6, 1, 2, 128, 2048),
    mlp_activations=("silu", "linear"),
    dropout_rate=0.0,
    logits_via_embedding=False,
    whole_words=False,
    relpos_buckets=8,
)


@pytest.mark.parametrize(
    ("config", "rows", "source", "target"), [(WIDE, 4, 128, 32), (GATED, 8, 64, 48)]
)
def test_a_steps_operations_are_xlas_to_two_percent(config, rows, source, target):
    model = Transformer(config)
    params = jax.eval_shape(partial(init_params, model), jax.random.key(0))
    batch = {
        "encoder_input_tokens": jax.ShapeDtypeStruct((rows, source), jnp.int32),
        **{
            f"decoder_{name}": jax.ShapeDtypeStruct((rows, target), dtype)
            for name, dtype in (
                ("input_tokens", jnp.int32),
                ("target_tokens", jnp.int32),
                ("loss_weights", jnp.float32),
            )
        },
    }
    step = jax.jit(jax.grad(partial(loss_fn, model)))
    counted = step.lower(params, batch).cost_analysis()["flops"]
    assert training_flops(config, rows, source, target) == pytest.approx(counted, rel=0.02)
