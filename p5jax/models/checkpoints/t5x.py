"""t5x checkpoints as p5jax parameters, read by tensorstore: no t5x, no TensorFlow.

Both of t5x's formats keep a zarr array per parameter, named by its path. The present one, which
p5jax writes too, keeps them in the OCDBT database `checkpoint_N/state/`, as
`target.encoder.layers_0.mlp.wi.kernel`. The older one, that of the public T5 v1.0, v1.1 and Flan
checkpoints, keeps large arrays in sub-folders of `checkpoint_N/` and small ones in a msgpack file
`checkpoint`, which also says in which sub-folder the others are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from flax.serialization import msgpack_restore
from flax.traverse_util import unflatten_dict

from p5jax.core.errors import UserError
from p5jax.models.checkpoints.tensor_names import WHOLE_WORD_PATH, TensorPath, checkpoint_tensors
from p5jax.models.checkpoints.vocabulary_rows import VOCABULARY_AXES, extend_vocabulary
from p5jax.models.t5 import WHOLE_WORDS
from p5jax.models.t5_config import T5Config

_MSGPACK, _DATABASE, _TARGET = "checkpoint", "state/", "target"
_GCS = re.compile(r"gs://([^/]+)/(.*?)/*")
# Few retries, so that a machine without a network fails within half a minute.
_CONTEXT = {"gcs_request_retries": {"max_retries": 4}}

_Arrays = dict[TensorPath, Any]  # opened tensorstores and numpy arrays; both have a shape


def is_t5x(path: str | os.PathLike[str]) -> bool:
    """Whether a path looks like a t5x checkpoint, or a folder of them (anything in a bucket)."""
    path = os.fspath(path)
    folder = Path(path)
    return (
        path.startswith("gs://")
        or (folder / _DATABASE).is_dir()
        or (folder / _MSGPACK).is_file()
        or any(folder.glob("checkpoint_*"))
    )


def check_t5x(path: str | os.PathLike[str], config: T5Config) -> None:
    """UserError unless `import_t5x` would take the checkpoint, as far as its shapes tell.

    config.vocab_size may still be 0, unknown.
    """
    _check(os.fspath(path), config, _open(os.fspath(path)))


def import_t5x(path: str | os.PathLike[str], config: T5Config) -> dict[str, Any]:
    """The parameters of a model of `config` from a checkpoint, as nested float32 numpy arrays.

    path: a folder `checkpoint_N`, local or gs:// (public buckets need no credentials). Fewer rows
    than config.vocab_size are extended as `extend_vocabulary` says; a whole-word table that the
    file lacks is zeros, so that the logits stay the file's. UserError when an array is missing,
    unknown, damaged or of another shape.
    """
    path = os.fspath(path)
    arrays = _open(path)
    _check(path, config, arrays)
    flat = _read(path, arrays)
    if config.whole_words and WHOLE_WORD_PATH not in flat:
        flat[WHOLE_WORD_PATH] = np.zeros((WHOLE_WORDS, config.emb_dim), np.float32)
    extend_vocabulary(path, flat, config.vocab_size)
    params: dict[str, Any] = unflatten_dict(flat)
    return params


def store_spec(path: str) -> dict[str, Any]:
    """The tensorstore key-value store of a folder, local or gs://BUCKET/KEY."""
    if path.startswith("gs://"):
        match = _GCS.fullmatch(path)
        if not match or not match[2]:
            raise UserError(f"{path}: found no folder, expected gs://BUCKET/FOLDER")
        return {"driver": "gcs", "bucket": match[1], "path": f"{match[2]}/"}
    return {"driver": "file", "path": f"{os.path.abspath(path)}/"}


def _below(store: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The store of a sub-folder."""
    return {**store, "path": f"{store.get('path', '')}{name.rstrip('/')}/"}


def _open(path: str) -> _Arrays:
    """Every parameter of a checkpoint by its path, opened but not read."""
    store, context = store_spec(path), tensorstore.Context(_CONTEXT)
    try:
        folder = tensorstore.KvStore.open(store, context=context).result()
        index = folder.read(_MSGPACK).result()
        if index.state == "value":
            return _open_msgpack(index.value, store, context)
        if folder.read(f"{_DATABASE}manifest.ocdbt").result().state == "value":
            return _open_database(_below(store, _DATABASE), context)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise _damaged(path, error) from error
    raise UserError(
        f"{path}: found neither {_DATABASE}manifest.ocdbt nor a file {_MSGPACK!r}, "
        "expected a t5x checkpoint such as MODEL_DIR/checkpoint_1000"
    )


def _open_database(base: dict[str, Any], context: tensorstore.Context) -> _Arrays:
    store = {"driver": "ocdbt", "base": base}
    keys = tensorstore.KvStore.open(store, context=context).result().list().result()
    names = [key.decode().removesuffix("/.zarray") for key in keys if key.endswith(b"/.zarray")]
    opening = {
        tuple(name.split(".")[1:]): _open_zarr(_below(store, name), context)
        for name in names
        if name.startswith(f"{_TARGET}.")
    }
    return {path: array.result() for path, array in opening.items()}


def _open_msgpack(content: bytes, store: dict[str, Any], context: tensorstore.Context) -> _Arrays:
    tree = msgpack_restore(content)
    target = tree.get("optimizer", tree)[_TARGET]
    opening = {}
    for path, leaf in _leaves(target):
        if isinstance(leaf, dict):
            # Relative to the checkpoint, whatever driver wrote it; tensorstore before 0.1.14 had
            # it outside of the store.
            name = leaf["kvstore"]["path"] if "path" in leaf["kvstore"] else leaf["path"]
            opening[path] = _open_zarr(_below(store, name), context)
        else:
            opening[path] = leaf
    return {
        path: array.result() if isinstance(array, tensorstore.Future) else np.asarray(array)
        for path, array in opening.items()
    }


def _leaves(tree: Mapping[str, Any], path: TensorPath = ()) -> Iterator[tuple[TensorPath, Any]]:
    """The arrays and tensorstore specs of a msgpack tree."""
    for key, value in tree.items():
        if isinstance(value, dict) and "kvstore" not in value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _open_zarr(store: dict[str, Any], context: tensorstore.Context) -> Any:
    # A chunk that is not there would otherwise be read as zeros.
    spec = {"driver": "zarr", "kvstore": store, "fill_missing_data_reads": False}
    return tensorstore.open(spec, context=context, open=True, read=True)


def _check(path: str, config: T5Config, arrays: _Arrays) -> None:
    """UserError naming the first array that a model of `config` does not have like this."""
    expected = {
        path: shape[::-1] if transposed else shape
        for _, path, shape, transposed in checkpoint_tensors(config)
    }
    for key, shape in expected.items():
        name, found = "/".join(key), tuple(arrays[key].shape) if key in arrays else None
        if found is None and key == WHOLE_WORD_PATH:
            continue
        if found is None:
            raise UserError(f"{path}: {name}: found nothing, expected shape {shape}")
        if key in VOCABULARY_AXES:  # extended later
            axis = VOCABULARY_AXES[key]
            shape = (*shape[:axis], *found[axis : axis + 1], *shape[axis + 1 :])
        if found != shape:
            raise UserError(f"{path}: {name}: found shape {found}, expected {shape} (see T5Config)")
    for key in arrays:
        if key not in expected:
            found = tuple(arrays[key].shape)
            raise UserError(
                f"{path}: {'/'.join(key)}: found shape {found}, expected no such array in a model "
                "of this T5Config"
            )


def _read(path: str, arrays: _Arrays) -> dict[TensorPath, np.ndarray]:
    reading = {
        key: array if isinstance(array, np.ndarray) else array.read()
        for key, array in arrays.items()
    }
    try:
        flat = {
            key: np.array(
                value if isinstance(value, np.ndarray) else value.result(), np.float32, order="C"
            )
            for key, value in reading.items()
        }
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _damaged(path, error) from error
    for key, value in flat.items():
        if not np.isfinite(value).all():
            name = "/".join(key)
            raise UserError(f"{path}: {name}: found numbers that are not finite, expected weights")
    return flat


def _damaged(path: str, error: BaseException) -> UserError:
    """One line with the cause's first words, without tensorstore's specs."""
    cause = " ".join(str(error).partition(" [")[0].split())[:200] or type(error).__name__
    return UserError(f"{path}: found no readable t5x checkpoint ({cause})")
