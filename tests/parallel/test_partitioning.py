from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AbstractMesh, PartitionSpec

from p5jax.core.errors import UserError
from p5jax.parallel.partitioning import (
    MeshConfig,
    batch_sharding,
    describe_mesh,
    enable_compilation_cache,
    make_mesh,
    param_shardings,
    shard_batch,
    state_shardings,
)
from p5jax.training.optimizer import OptimizerConfig, make_optimizer

ROOT = Path(__file__).parents[2]
AXES = {
    "mlp": {"wi": {"kernel": ("embed", "mlp")}, "wo": {"kernel": ("mlp", "embed")}},
    "token_embedder": {"embedding": ("vocab", "embed")},
    "norm": {"scale": ("embed",)},
    "relpos_bias": {"rel_embedding": ("heads", "relpos_buckets")},
    "prefix": {"embedding": ("a_new_name", "embed")},
}
SHAPES = {
    "mlp": {"wi": {"kernel": (8, 16)}, "wo": {"kernel": (16, 8)}},
    "token_embedder": {"embedding": (32, 8)},
    "norm": {"scale": (8,)},
    "relpos_bias": {"rel_embedding": (4, 6)},
    "prefix": {"embedding": (3, 8)},
}


def _abstract(shapes):
    return jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s, jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def _specs(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.spec
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_parameters_follow_the_logical_rules():
    mesh = AbstractMesh((4, 2), ("data", "model"))
    specs = _specs(param_shardings(mesh, AXES, _abstract(SHAPES)))
    assert specs == {
        "mlp/wi/kernel": PartitionSpec(None, "model"),
        "mlp/wo/kernel": PartitionSpec("model", None),
        "token_embedder/embedding": PartitionSpec("model", None),
        "norm/scale": PartitionSpec(None),
        "relpos_bias/rel_embedding": PartitionSpec("model", None),
        "prefix/embedding": PartitionSpec(None, None),
    }


def test_fsdp_splits_parameters_by_embed_over_data():
    mesh = AbstractMesh((4, 2), ("data", "model"))
    specs = _specs(param_shardings(mesh, AXES, _abstract(SHAPES), fsdp=True))
    assert specs == {
        "mlp/wi/kernel": PartitionSpec("data", "model"),
        "mlp/wo/kernel": PartitionSpec("model", "data"),
        "token_embedder/embedding": PartitionSpec("model", "data"),
        "norm/scale": PartitionSpec("data"),
        "relpos_bias/rel_embedding": PartitionSpec("model", None),
        "prefix/embedding": PartitionSpec(None, "data"),
    }
    with pytest.raises(UserError, match=r"embed is 8, expected a multiple of the mesh's data=3"):
        param_shardings(AbstractMesh((3, 2), ("data", "model")), AXES, _abstract(SHAPES), fsdp=True)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_optimizer_state_lies_beside_its_parameter(name):
    mesh = AbstractMesh((4, 2), ("data", "model"))
    shapes = {**SHAPES, "big": {"kernel": (128, 256)}}
    params = _abstract(shapes)
    axes = {**AXES, "big": {"kernel": ("embed", "mlp")}}
    shardings = param_shardings(mesh, axes, params)
    tx, _ = make_optimizer(OptimizerConfig(name=name), 10)
    abstract = jax.eval_shape(tx.init, params)
    found = state_shardings(mesh, abstract, params, shardings)
    expected = {tuple(k.split("/")): s for k, s in _specs(shardings).items()}
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(abstract), jax.tree.leaves(found), strict=True
    ):
        keys = tuple(jax.tree_util.keystr(path, simple=True, separator="/").split("/"))
        ours = [k for k in expected if keys[-len(k) :] == k]
        shape = tuple(leaf.shape)
        if ours and shape == dict(_leaves(shapes))[ours[0]]:
            assert sharding.spec == expected[ours[0]], keys
        else:  # a counter or a factored moment
            assert sharding.spec == PartitionSpec(), keys


def _leaves(shapes):
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        shapes, is_leaf=lambda x: isinstance(x, tuple)
    ):
        yield tuple(key.key for key in path), leaf


def test_dimension_that_the_mesh_does_not_divide():
    mesh = AbstractMesh((1, 3), ("data", "model"))
    shapes = {**SHAPES, "mlp": {"wi": {"kernel": (8, 15)}, "wo": {"kernel": (16, 8)}}}
    with pytest.raises(UserError, match=r"mlp/wo/kernel: dimension mlp is 16.*model=3"):
        param_shardings(mesh, AXES, _abstract(shapes))


@pytest.mark.parametrize("sizes", [(1000, 1), (0, 1), (-1, -1), (-1, 999)])
def test_mesh_that_does_not_fit_the_devices(sizes):
    with pytest.raises(UserError, match=r"^mesh data=.*expected"):
        make_mesh(MeshConfig(*sizes))


def test_mesh_shapes_and_batches_on_eight_devices():
    """Eight simulated devices: the mesh's shape, where rows go, and rows that do not split."""
    code = """
import numpy as np, jax
from p5jax.core.errors import UserError
from p5jax.parallel.partitioning import *
assert dict(make_mesh().shape) == {"data": 8, "model": 1}
assert dict(make_mesh(MeshConfig(model=4)).shape) == {"data": 2, "model": 4}
assert dict(make_mesh(MeshConfig(data=2, model=-1)).shape) == {"data": 2, "model": 4}
mesh = make_mesh(MeshConfig(4, 2))
assert describe_mesh(mesh).startswith("mesh data 4 x model 2: 8 "), describe_mesh(mesh)
x = np.arange(24).reshape(8, 3)
y = shard_batch(mesh, {"x": x})["x"]
assert (np.asarray(y) == x).all() and len(y.addressable_shards) == 8
starts = set()
for shard in y.addressable_shards:
    rows = shard.index[0]
    assert rows.stop - rows.start == 2 and (np.asarray(shard.data) == x[rows]).all()
    starts.add(rows.start)
assert starts == {0, 2, 4, 6}
try:
    shard_batch(mesh, {"x": x[:6]})
except UserError as error:
    print(error)
"""
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "batch x: found 6 rows, expected a multiple of the mesh's data=4\n"


def test_one_device_mesh():
    mesh = make_mesh(MeshConfig(jax.device_count(), 1))
    assert describe_mesh(mesh).startswith(f"mesh data {jax.device_count()} x model 1")
    batch = shard_batch(mesh, {"x": np.ones((jax.device_count() * 2, 3), np.int32)})
    assert batch["x"].sharding == batch_sharding(mesh)


def test_compilation_cache_folder(tmp_path, monkeypatch, capsys):
    before = jax.config.jax_compilation_cache_dir
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.jit(lambda x: x + 1)(jnp.ones(7))  # the first compilation of the process is over
    try:
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        assert enable_compilation_cache(tmp_path / "a") == tmp_path / "a"
        assert (tmp_path / "a").is_dir()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "a")
        jax.jit(lambda x: jnp.sin(x) * 3.25)(jnp.ones(7)).block_until_ready()
        assert list((tmp_path / "a").iterdir())
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "b"))
        assert enable_compilation_cache(tmp_path / "a") == tmp_path / "b"
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert enable_compilation_cache() == tmp_path / ".cache/p5jax/xla"
        (tmp_path / "file").write_text("")
        for folder in (tmp_path / "file" / "xla", "~nobody-of-this-name/xla"):
            assert enable_compilation_cache(folder) is None
            assert jax.config.jax_compilation_cache_dir is None
            error = capsys.readouterr().err
            assert error.startswith("note: compiled programs are not kept (")
            assert error.count("\n") == 1
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
        compilation_cache.reset_cache()
