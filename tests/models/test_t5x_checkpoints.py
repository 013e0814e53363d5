"""t5x checkpoints, written here the way t5x writes them, give the model they came from."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from functools import cache

import flax.serialization
import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
from flax.traverse_util import flatten_dict

from p5jax.core.errors import UserError
from p5jax.models.checkpoints.t5x import check_t5x, import_t5x, is_t5x, store_spec
from p5jax.models.t5 import T5Config, Transformer, init_params
from p5jax.training.checkpoints import restore_params

WORD_STARTS = np.packbits(np.arange(128) % 3 == 0).tobytes()
V1_0 = T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=1,
    head_dim=4,
    mlp_dim=24,
    whole_words=False,
)
V1_1 = replace(V1_0, mlp_activations=("gelu", "linear"), logits_via_embedding=False)
CONFIGS = {"v1.0": V1_0, "v1.1": V1_1}


@cache
def parameters(config):
    return jax.tree.map(np.asarray, init_params(Transformer(config), jax.random.key(1)))


def logits(config, params):
    """Those of some sources and targets of the first 64 tokens, [3, 9, V]."""
    rng = np.random.default_rng(0)
    source, target = rng.integers(2, 64, (2, 3, 9), np.int32)
    source[1, 6:] = 0
    model = Transformer(config)
    return np.asarray(model.apply({"params": params}, source, target, target, enable_dropout=False))


def write_orbax(params, folder):
    """As t5x writes now: plain Orbax, the item `state` of {target, state}."""
    state = {"step": np.int32(7), "param_states": {"v": np.ones(3)}}
    options = ocp.CheckpointManagerOptions(step_prefix="checkpoint")
    with ocp.CheckpointManager(folder, item_names=("state",), options=options) as manager:
        save = ocp.args.PyTreeSave({"target": params, "state": state})
        manager.save(7, args=ocp.args.Composite(state=save))
    return folder / "checkpoint_7"


def write_msgpack(params, folder, driver="file", old_paths=False):
    """As t5x wrote: a gzipped zarr per matrix, in chunks; vectors in msgpack with the specs.

    driver: the one that the specs name. old_paths: the path beside the store, not in it.
    """
    folder = folder / "checkpoint_7"
    folder.mkdir(parents=True)
    target = {}
    for path, array in flatten_dict(params, sep="/").items():
        if array.ndim == 1:
            target[path] = array
            continue
        name = f"target.{path.replace('/', '.')}"
        chunks = [array.shape[0], -(-array.shape[1] // 2)]
        metadata = {"compressor": {"id": "gzip"}, "shape": array.shape, "chunks": chunks}
        spec = {
            "driver": "zarr",
            "dtype": array.dtype.name,
            "kvstore": {"driver": "file", "path": str(folder / name)},
            "metadata": metadata,
        }
        tensorstore.open(spec, create=True).result().write(array).result()
        spec["kvstore"] = {"driver": driver}
        if driver == "gcs":
            spec["kvstore"]["bucket"] = "t5x-dummy-bucket"
        (spec if old_paths else spec["kvstore"])["path"] = name
        target[path] = json.loads(json.dumps(spec))
    tree = {}
    for path, leaf in target.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    state = {"step": np.int32(7), "param_states": {}}
    content = {"version": 3, "optimizer": {"target": tree, "state": state}}
    (folder / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(content))
    return folder


WRITERS = {
    "orbax": write_orbax,
    "msgpack": write_msgpack,
    "msgpack from a bucket": lambda p, f: write_msgpack(p, f, driver="gcs"),
    "msgpack of old": lambda p, f: write_msgpack(p, f, driver="gfile", old_paths=True),
}


@pytest.mark.parametrize("version", CONFIGS)
@pytest.mark.parametrize("form", WRITERS)
def test_a_checkpoint_gives_the_model_it_came_from(tmp_path, form, version):
    config = CONFIGS[version]
    params = parameters(config)
    path = WRITERS[form](params, tmp_path)
    assert is_t5x(path)
    read = import_t5x(path, config)
    assert jax.tree.structure(read) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, read, params)
    assert np.array_equal(logits(config, read), logits(config, params))


@pytest.mark.parametrize("form", ["orbax", "msgpack"])
@pytest.mark.parametrize("version", CONFIGS)
def test_new_tokens_and_the_whole_word_table_leave_the_logits_as_they_are(
    tmp_path, caplog, form, version
):
    config = CONFIGS[version]
    params = parameters(config)
    path = WRITERS[form](params, tmp_path)
    wanted = replace(config, vocab_size=128, whole_words=True, word_starts=WORD_STARTS)
    with caplog.at_level(logging.WARNING):
        read = import_t5x(path, wanted)
    assert "vocabulary extended from 64 to 128 rows" in caplog.text
    expected = logits(config, params)
    found = logits(wanted, read)
    # A matrix product over more columns may round otherwise.
    np.testing.assert_allclose(found[..., :64], expected, rtol=0, atol=1e-5)
    # A mean row gives the mean of the other rows' logits.
    mean = np.repeat(expected.mean(axis=-1, keepdims=True), 64, axis=-1)
    np.testing.assert_allclose(found[..., 64:], mean, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="vocabulary: found 64 rows, expected at most 32"):
        import_t5x(path, replace(config, vocab_size=32))


def test_half_precision_arrays_are_read_as_float32(tmp_path):
    params = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), parameters(V1_1))
    read = import_t5x(write_msgpack(params, tmp_path), V1_1)
    jax.tree.map(lambda r, p: np.testing.assert_array_equal(r, p.astype(np.float32)), read, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(read)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("form", ["orbax", "msgpack"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mlp_dim": 32}, r"layers_0/mlp/wi/kernel: found shape \(16, 24\), expected \(16, 32\)"),
        ({"emb_dim": 8}, r"token_embedder/embedding: found shape \(64, 16\), expected \(64, 8\)"),
        (
            {"num_heads": 4, "head_dim": 2},
            r"encoder/relpos_bias/rel_embedding: found shape \(2, 32\), expected \(4, 32\)",
        ),
        ({"num_encoder_layers": 3}, r"encoder/layers_2/.*: found nothing, expected shape \("),
        ({"num_encoder_layers": 1}, r"encoder/layers_1/.* found shape \(.*\), expected no such"),
        ({"mlp_activations": ("gelu", "linear")}, r"mlp/wi_0/kernel: found nothing"),
        ({"logits_via_embedding": False}, r"decoder/logits_dense/kernel: found nothing"),
    ],
)
def test_another_model_is_refused_by_the_first_array_that_differs(tmp_path, form, change, message):
    path = WRITERS[form](parameters(V1_0), tmp_path)
    # The size of the vocabulary is not known when a run is configured.
    for config in (replace(V1_0, **change), replace(V1_0, vocab_size=0, **change)):
        with pytest.raises(UserError, match=rf"^[^\n]*checkpoint_7: [^\n]*{message}[^\n]*$"):
            check_t5x(path, config)
    with pytest.raises(UserError, match=message):
        import_t5x(path, replace(V1_0, **change))


def test_a_whole_word_table_is_not_dropped_in_silence(tmp_path):
    config = replace(V1_0, whole_words=True, word_starts=WORD_STARTS)
    params = parameters(config)
    path = write_orbax(params, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, import_t5x(path, config), params)
    with pytest.raises(UserError, match=r"whole_word_embedder/embedding: found shape \(512, 16\)"):
        import_t5x(path, V1_0)


def _damage(path, kind):
    kernel = path / "target.encoder.layers_1.mlp.wi.kernel"
    content = path / "checkpoint"
    match kind:
        case "no chunk":
            (kernel / "0.1").unlink()
        case "half a chunk":
            (kernel / "0.0").write_bytes((kernel / "0.0").read_bytes()[:40])
        case "no array":
            shutil.rmtree(kernel)
        case "half an index":
            content.write_bytes(content.read_bytes()[: content.stat().st_size // 2])
        case "no index":
            content.unlink()
        case "another index":
            content.write_text('model_checkpoint_path: "model.ckpt-1000"\n')
        case "no target":
            content.write_bytes(flax.serialization.msgpack_serialize({"optimizer": {"x": 1}}))


@pytest.mark.parametrize(
    "kind",
    ["no chunk", "half a chunk", "no array", "half an index", "no index", "another index"]
    + ["no target"],
)
def test_a_damaged_msgpack_checkpoint_is_one_line(tmp_path, kind):
    path = write_msgpack(parameters(V1_0), tmp_path)
    _damage(path, kind)
    with pytest.raises(UserError, match=r"^[^\n]{20,400}$") as error:
        import_t5x(path, V1_0)
    assert str(error.value).startswith(f"{path}: found ")


@pytest.mark.parametrize("what", ["manifest.ocdbt", "d"])
@pytest.mark.parametrize("share", [0, 0.5, None])
def test_a_damaged_orbax_checkpoint_is_one_line(tmp_path, what, share):
    path = write_orbax(parameters(V1_0), tmp_path)
    files = [f for f in (path / "state").rglob("*") if f.is_file()]
    for file in [f for f in files if f.name == what or f.parent.name == what]:
        content = file.read_bytes()
        file.unlink()
        if share is not None:
            file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"^[^\n]{20,400}$") as error:
        import_t5x(path, V1_0)
    assert str(error.value).startswith(f"{path}: found ")


def test_a_folder_of_checkpoints_or_of_something_else(tmp_path):
    assert not is_t5x(tmp_path)
    assert not is_t5x(tmp_path / "nowhere")
    write_orbax(parameters(V1_0), tmp_path)
    assert is_t5x(tmp_path)
    expected = "expected a t5x checkpoint such as MODEL_DIR/checkpoint_1000"
    with pytest.raises(UserError, match=expected):
        import_t5x(tmp_path, V1_0)
    with pytest.raises(UserError, match=expected):
        import_t5x(tmp_path / "checkpoint_7" / "nowhere", V1_0)


def test_where_a_checkpoint_is_read_from(tmp_path):
    public = "gs://t5-data/pretrained_models/t5x/t5_1_1_small/checkpoint_1000000"
    expected = {
        "driver": "gcs",
        "bucket": "t5-data",
        "path": "pretrained_models/t5x/t5_1_1_small/checkpoint_1000000/",
    }
    for path in (public, f"{public}/", f"{public}//"):
        assert is_t5x(path)
        assert store_spec(path) == expected
        # tensorstore itself takes it, and means the same place.
        url = tensorstore.KvStore.Spec({**expected}).url
        assert tensorstore.KvStore.Spec(store_spec(path)).url == url == f"{public}/"
    for path in ("gs://t5-data", "gs://t5-data/", "gs:///x"):
        with pytest.raises(UserError, match=r"expected gs://BUCKET/FOLDER"):
            store_spec(path)
    assert store_spec(str(tmp_path)) == {"driver": "file", "path": f"{tmp_path}/"}


def test_an_array_of_a_bucket_is_below_it(tmp_path, monkeypatch):
    """A bucket, played by a folder: the same keys, the same model."""
    from p5jax.models.checkpoints import t5x as t5x_checkpoints

    params = parameters(V1_1)
    path = write_msgpack(params, tmp_path / "bucket" / "models", driver="gcs")
    seen = set()
    real = tensorstore.open

    def in_folder(spec):
        assert spec["driver"] == "gcs"
        assert spec["bucket"] == "bucket"
        seen.add(spec["path"])
        return {"driver": "file", "path": f"{tmp_path}/bucket/{spec['path']}"}

    class Stores:
        open = staticmethod(lambda spec, **kw: tensorstore.KvStore.open(in_folder(spec), **kw))

    class Fake:
        KvStore, Context, Future = Stores, tensorstore.Context, tensorstore.Future
        open = staticmethod(
            lambda spec, **kw: real({**spec, "kvstore": in_folder(spec["kvstore"])}, **kw)
        )

    monkeypatch.setattr(t5x_checkpoints, "tensorstore", Fake)
    read = import_t5x(f"gs://bucket/models/{path.name}", V1_1)
    jax.tree.map(np.testing.assert_array_equal, read, params)
    assert "models/checkpoint_7/" in seen
    assert "models/checkpoint_7/target.encoder.layers_0.mlp.wi_0.kernel/" in seen


@pytest.mark.check
def test_training_goes_on_from_a_checkpoint_of_a_run(world, tmp_path, capsys):
    from p5jax.cli.main import main

    def train(name, *more):
        binds = {
            "DATASET": world.path,
            "RUN_DIR": tmp_path / name,
            "STEPS": 1,
            "BATCH_SIZE": 4,
            "RunConfig.vocabulary_size": 400,
            "RunConfig.families": "('rating',)",
            "FamilyConfig.max_source": 64,
            "PipelineConfig.source_lengths": "(64,)",
            "ValidationConfig.examples": 4,
        }
        small = {"emb_dim": 16, "num_encoder_layers": 1, "num_decoder_layers": 1, "mlp_dim": 16}
        binds |= {f"T5Config.{key}": value for key, value in small.items()}
        flags = [f"--gin.{key}={value}" for key, value in binds.items()]
        return main(["train", "--gin_file=runs/p5.gin", *flags, *more])

    assert train("first") == 0
    source = tmp_path / "first" / "checkpoints" / "checkpoint_1"
    start = f"--gin.RunConfig.initial_checkpoint={source}"
    # Without a learning rate the step leaves the parameters as they were read.
    assert train("second", start, "--gin.LEARNING_RATE=0.0") == 0
    first, second = (
        restore_params(tmp_path / name / "checkpoints") for name in ("first", "second")
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)
    capsys.readouterr()
    assert train("third", start, "--gin.T5Config.mlp_dim=32") == 2
    line = capsys.readouterr().err
    assert "mlp/wi/kernel: found shape (16, 16), expected (16, 32)" in line
    assert line.count("\n") == 1
    assert not (tmp_path / "third").exists()
