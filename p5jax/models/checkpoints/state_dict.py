"""Read a PyTorch state dict (`torch.save`, zip format) without PyTorch, and safely.

A pickle can call anything. This reader gives it only what a dict of tensors needs: ordered dicts,
storages by name and the function that views a storage as a tensor; all else is refused.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from p5jax.core.errors import UserError

# torch's name of a storage class -> the numpy type of its elements
_STORAGES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


@dataclass(frozen=True)
class _StorageType:
    """What the pickle gets in place of a torch storage class."""

    dtype: Any


# What the standard readers of zip and pickle raise for damaged input.
_BROKEN = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    LookupError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _Refused(Exception):
    """The file holds what a state dict does not; the message completes "found …"."""


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a `.pth` or `.bin` state dict by name, in the file's own types.

    UserError when the file is not a zip made by `torch.save`, is truncated, holds anything but
    tensors, or asks its reader to call any other function.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: found no such file, expected a PyTorch state dict")
    try:
        with zipfile.ZipFile(path) as archive:
            loaded = _load(archive)
    except zipfile.BadZipFile:
        raise UserError(
            f"{path}: found no complete zip archive, expected one from torch.save (torch >= 1.6)"
        ) from None
    except _Refused as error:
        raise UserError(f"{path}: found {error}, expected a state dict of tensors") from None
    except _BROKEN as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: found a broken file ({detail}), expected a state dict") from None
    return loaded


def _load(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    names = archive.namelist()
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise _Refused(f"{len(pickles)} data.pkl entries")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise _Refused("compressed entries")
    prefix = pickles[0][: -len("data.pkl")]
    order = "<"
    if prefix + "byteorder" in names:
        word = archive.read(prefix + "byteorder").decode("ascii", "replace").strip()
        if word not in ("little", "big"):
            raise _Refused(f"byte order {word!r}")
        order = "<" if word == "little" else ">"
    with archive.open(pickles[0]) as file:
        loaded = _Unpickler(file, archive, prefix, order).load()
    if not isinstance(loaded, dict):
        raise _Refused(f"a {type(loaded).__name__}")
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not isinstance(tensor, np.ndarray):
            raise _Refused(f"a {type(tensor).__name__} under {name!r}")
    return dict(loaded)


class _Unpickler(pickle.Unpickler):
    """Builds numpy arrays from the storages of one archive."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, prefix: str, order: str) -> None:
        super().__init__(file)
        self._archive, self._prefix, self._order = archive, prefix, order
        self._storages: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        """The few names a state dict needs; every other one is refused, never imported."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _rebuild_tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return _rebuild_parameter
        raise _Refused(f"a pickle that calls {module}.{name}")

    def persistent_load(self, reference: Any) -> np.ndarray:
        """A storage, ("storage", type, key, device, elements), as a flat array."""
        if not (isinstance(reference, tuple) and len(reference) == 5):
            raise _Refused(f"the reference {reference!r:.60}")
        kind, storage, key, _, elements = reference
        if kind != "storage" or not isinstance(storage, _StorageType) or not isinstance(key, str):
            raise _Refused(f"the reference {reference!r:.60}")
        if key not in self._storages:
            dtype = np.dtype(storage.dtype)
            name = f"{self._prefix}data/{key}"
            try:
                data = self._archive.read(name)
            except KeyError:
                raise _Refused(f"no storage {name}") from None
            if len(data) != elements * dtype.itemsize:
                raise _Refused(f"{len(data)} bytes in {name} for {elements} elements of {dtype}")
            array = np.frombuffer(data, dtype)
            native = "<" if np.little_endian else ">"
            self._storages[key] = array if self._order == native else array.byteswap()
        return self._storages[key]


def _rebuild_tensor(
    storage: np.ndarray, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any
) -> np.ndarray:
    """A copy of the strided view that torch stores; checked to lie inside its storage."""
    if not isinstance(storage, np.ndarray) or len(size) != len(stride):
        raise _Refused("a malformed tensor")
    numbers = [offset, *size, *stride]
    if not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise _Refused("a malformed tensor")
    elements = int(np.prod(size, dtype=object)) if size else 1
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # No more elements than the storage has: a tiny file cannot ask for a huge array by stride 0.
    if elements and (last >= storage.size or elements > storage.size):
        raise _Refused(f"a tensor of shape {tuple(size)} outside its storage")
    if not elements:
        return np.empty(size, storage.dtype)
    bytes_stride = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, bytes_stride).copy()


def _rebuild_parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
    return tensor
