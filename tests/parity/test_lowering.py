"""Every program that the product runs is lowered for GPUs and TPUs, on a machine with neither."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import lowered
import numpy as np
import pytest

from p5jax.core.config import gin_folder
from p5jax.models.t5 import Transformer

TESTS = Path(__file__).resolve().parent.parent
SIZES = sorted(path.stem for path in (gin_folder() / "models").glob("*.gin"))
# One of each kind: the others are lowered by `make check`.
QUICK = ("train step", "soft prefix step", "certified search", "sampled text", "trigger gradients")


@pytest.fixture(scope="module")
def one_layer() -> Transformer:
    """The T5 v1.1 of gin/models, of one layer, in float32."""
    sizes = lowered.model_of("v1_1_small", "float32").config
    return Transformer(replace(sizes, num_encoder_layers=1, num_decoder_layers=1))


@pytest.mark.parametrize("program", QUICK)
def test_a_layer_is_lowered(program, one_layer):
    assert set(lowered.PROGRAMS[program](one_layer).platforms) == {"cuda", "tpu"}


@pytest.mark.check
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("program", lowered.PROGRAMS)
def test_every_size_is_lowered(program, size):
    made = lowered.PROGRAMS[program](lowered.model_of(size))
    assert set(made.platforms) == {"cuda", "tpu"}


@pytest.mark.check
@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_lowered_over_a_mesh_of_eight_devices(size):
    program = [sys.executable, str(TESTS / "lowered.py"), size]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    done = subprocess.run(program, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {name: [["cuda", "tpu"], 8] for name in lowered.ON_MESHES}


def on_the_host(x):
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def of_the_processor_alone(x):
    return jax.lax.linalg.schur(x)


def of_a_library(x):
    return jax.ffi.ffi_call("p5jax_made_up", jax.ShapeDtypeStruct(x.shape, x.dtype))(x)


@pytest.mark.parametrize("function", [on_the_host, of_the_processor_alone, of_a_library])
def test_what_needs_the_processor_is_found(function):
    """What would pass here unseen would fail on the first GPU or TPU."""
    with pytest.raises((NotImplementedError, ValueError)):
        lowered.lowered(lambda x: function(x @ x), jax.ShapeDtypeStruct((4, 4), np.float32))
