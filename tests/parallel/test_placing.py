"""Ranking and generating on four devices against scoring every item alone on one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from p5jax.parallel.partitioning import MeshConfig, make_mesh, replicated
from p5jax.parallel.placing import mesh_of, place_rows, place_whole, to_host

HERE = Path(__file__).parent
PROGRAM = """
import jax, numpy as np
from small_model import log_probabilities, small_model
from p5jax.inference.decoding import greedy
from p5jax.parallel.placing import place_rows, place_whole, to_host
from p5jax.inference.ranking import rank
from p5jax.inference.trie import Trie
from p5jax.models.t5 import init_params, param_axes
from p5jax.parallel.partitioning import MeshConfig, make_mesh, param_shardings

V = 24
ends = (3,), (5, 8), (9, 4, 6)
ids = [(7, a, *end, 1) for a in range(2, 14) for end in ends if a + len(end) & 1]
model, trie = small_model(V), Trie.build(ids)
rng = np.random.default_rng(0)
host = jax.tree.map(
    lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32),
    jax.eval_shape(lambda: init_params(model, jax.random.key(0))),
)
host["token_embedder"]["embedding"] *= 3
sources = rng.integers(2, V, (5, 9)).astype(np.int32)  # five rows: two devices share no five
sources[1, 6:] = 0
oracle = log_probabilities(model, host, sources, ids)  # [B, I]
exclude = np.argsort(-oracle)[:, :2]  # the two best
allowed = oracle.copy()
np.put_along_axis(allowed, exclude, -np.inf, axis=1)
best = -np.sort(-allowed, axis=1)[:, :6]
texts = np.asarray(greedy(model, host, sources, 5))
mesh = make_mesh(MeshConfig(2, 2))
params = jax.device_put(host, param_shardings(mesh, param_axes(model), host, fsdp=True))
table = params["token_embedder"]["embedding"]
assert table.addressable_shards[0].data.size == table.size // 4
placed = place_whole(params, trie)
for leaf in jax.tree.leaves(placed):
    assert leaf.is_fully_replicated and leaf.sharding.device_set == table.sharding.device_set
for method, ids in (("certified", placed), ("exact", trie)):
    found = rank(model, params, sources, ids, 6, method, exclude=exclude)
    assert found.items.shape == (5, 6) and found.exact.all()
    assert (np.sort(found.items) == np.sort(np.argsort(-allowed)[:, :6])).all()
    np.testing.assert_allclose(found.logp, best, atol=1e-4)
    np.testing.assert_allclose(
        found.logp, np.take_along_axis(oracle, found.items, 1), atol=1e-4
    )
rows = place_rows(params, sources)
assert len({str(shard.index) for shard in rows.addressable_shards}) == 2
assert (to_host(greedy(model, params, rows, 5))[:5] == texts).all()
print("the same")
"""


def test_four_devices_rank_and_generate_as_one():
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}{os.pathsep}{HERE.parents[1]}",
    }
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "the same\n", done.stdout + done.stderr


def test_without_a_mesh_rows_go_to_the_first_device():
    rows = np.arange(6).reshape(3, 2)
    for params in ({"a": np.ones(2)}, {"a": jnp.ones(2)}):
        assert mesh_of(params) is None
        placed = place_rows(params, rows)
        assert isinstance(placed, jax.Array)
        np.testing.assert_array_equal(placed, rows)
        whole = place_whole(params, {"x": rows})["x"]
        assert isinstance(whole, jax.Array)
        np.testing.assert_array_equal(whole, rows)
    mesh = make_mesh(MeshConfig(1, -1))
    params = {"a": jax.device_put(np.ones(2), replicated(mesh))}
    assert mesh_of(params) == mesh
    np.testing.assert_array_equal(to_host({"x": place_rows(params, rows)})["x"], rows)
