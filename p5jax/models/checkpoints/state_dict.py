"""Read a PyTorch state dict (`torch.save`, zip format) without PyTorch, and safely.

A pickle can call anything, and a few bytes of one can take all memory and time. This reader does
only what a dict of tensors needs: texts, numbers, tuples, dicts with texts as keys, storages by
name and the functions that view a storage as a tensor; all else is refused. No other object is
compared, hashed or shown, and a tensor is a view of its storage, which takes the file's own size.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Callable, Sequence
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


_LARGEST_PICKLE = 1 << 19  # bytes; the 11B T5 has a fifth of it
_DIMENSIONS = 8
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = (
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "SHORT_BINSTRING",
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

# What the standard readers of zip and of a pickle's codes raise for damaged input.
_BROKEN = (
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
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
            loaded = _load(archive, path.stat().st_size)
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


def _load(archive: zipfile.ZipFile, size: int) -> dict[str, np.ndarray]:
    names = archive.namelist()
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1 or len(set(names)) < len(names):
        raise _Refused(f"{len(pickles)} data.pkl entries, of {len(names)}")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise _Refused("compressed entries")
    if sum(entry.file_size for entry in archive.infolist()) > size:
        raise _Refused("entries that are larger than the file")
    if archive.getinfo(pickles[0]).file_size > _LARGEST_PICKLE:
        raise _Refused(f"a data.pkl of more than {_LARGEST_PICKLE} bytes")
    prefix = pickles[0][: -len("data.pkl")]
    order = "<"
    if prefix + "byteorder" in names:
        word = archive.read(prefix + "byteorder")[:20].decode("ascii", "replace").strip()
        if word not in ("little", "big"):
            raise _Refused(f"byte order {word!r}")
        order = "<" if word == "little" else ">"
    loaded = _unpickled(archive.read(pickles[0]), _Storages(archive, prefix, order))
    if not isinstance(loaded, dict) or not loaded:
        raise _Refused("no tensors" if isinstance(loaded, dict) else f"a {type(loaded).__name__}")
    for name, tensor in loaded.items():
        if not isinstance(tensor, np.ndarray):
            raise _Refused(f"a {type(tensor).__name__} under {name[:60]!r}")
    return loaded


class _Storages:
    """The storages of one archive, each read once, as flat arrays."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str, order: str) -> None:
        self._archive, self._prefix, self._order = archive, prefix, order
        self._found: dict[str, np.ndarray] = {}

    def __call__(self, reference: Any) -> np.ndarray:
        """Return the storage of ("storage", type, key, device, elements)."""
        if not (isinstance(reference, tuple) and len(reference) == 5):
            raise _Refused("a reference that is no storage's")
        kind, storage, key, _, elements = reference
        if kind != "storage" or not isinstance(storage, _StorageType) or not isinstance(key, str):
            raise _Refused("a reference that is no storage's")
        dtype, name = np.dtype(storage.dtype), f"{self._prefix}data/{key[:60]}"
        if key not in self._found:
            try:
                data = self._archive.read(name)
            except KeyError:
                raise _Refused(f"no storage {name}") from None
            if not isinstance(elements, int) or len(data) != elements * dtype.itemsize:
                raise _Refused(f"{len(data)} bytes in {name}, not of as many {dtype} as it says")
            array = np.frombuffer(data, dtype)
            native = "<" if np.little_endian else ">"
            self._found[key] = array if self._order == native else array.byteswap()
        if self._found[key].dtype != dtype:
            raise _Refused(f"{name} as {self._found[key].dtype} and as {dtype}")
        return self._found[key]


def _unpickled(content: bytes, storages: _Storages) -> Any:
    """Return what a pickle makes: the codes that torch.save writes for tensors, and no others."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def popped(count: int) -> list[Any]:
        if count > len(stack) - (marks[-1] if marks else 0):
            raise _Refused("a pickle that takes more than there is")
        values = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return values

    for code, argument, _ in pickletools.genops(content):
        name = code.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return popped(1)[0]
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("TUPLE", "SETITEMS"):
            values = popped(len(stack) - marks[-1])
            marks.pop()
            stack.append(tuple(values)) if name == "TUPLE" else _set_items(stack[-1], values)
        elif name in _TUPLES:
            stack.append(tuple(popped(_TUPLES[name])))
        elif name == "SETITEM":
            values = popped(2)
            _set_items(stack[-1], values)
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_named(str(argument)))
        elif name == "STACK_GLOBAL":
            stack.append(_named(" ".join(map(str, popped(2)))))
        elif name == "BINPERSID":
            stack.append(storages(popped(1)[0]))
        elif name == "REDUCE":
            function, arguments = popped(2)
            if not isinstance(function, _Function) or not isinstance(arguments, tuple):
                raise _Refused("a pickle that calls what is no function")
            stack.append(function.call(*arguments))
        elif name == "BUILD":
            popped(1)  # an ordered dict's own attributes: the versions of its modules
        else:
            raise _Refused(f"a pickle with {name}")
    raise EOFError("a pickle without an end")


def _set_items(target: Any, values: list[Any]) -> None:
    if not isinstance(target, dict) or len(values) % 2:
        raise _Refused("items that are no dict's")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, str):
            raise _Refused(f"a key that is a {type(key).__name__}")
        if key in target:
            raise _Refused(f"{key[:60]!r} twice")
        target[key] = value


def _rebuild_tensor(
    storage: np.ndarray, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any
) -> np.ndarray:
    """The strided view that torch stores; checked to lie inside its storage."""
    if not isinstance(storage, np.ndarray) or not isinstance(size, tuple):
        raise _Refused("a malformed tensor")
    if not isinstance(stride, tuple) or not len(size) == len(stride) <= _DIMENSIONS:
        raise _Refused("a malformed tensor")
    numbers = [offset, *size, *stride]
    if not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
        raise _Refused("a malformed tensor")
    elements = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # No more elements than the storage has: a tiny file cannot ask for a huge array by stride 0.
    if elements and (last >= storage.size or elements > storage.size):
        raise _Refused(f"a tensor of shape {size} outside its storage")
    if not elements:
        return np.empty(size, storage.dtype)
    bytes_stride = [step * storage.itemsize for step in stride]
    view = np.lib.stride_tricks.as_strided(storage[offset:], size, bytes_stride, writeable=False)
    return view


def _rebuild_parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
    return tensor


def _new_dict() -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class _Function:
    """What the pickle gets in place of a function of torch's."""

    call: Callable[..., Any]


_NAMES: dict[str, Any] = {
    "collections OrderedDict": _Function(_new_dict),
    "torch._utils _rebuild_tensor_v2": _Function(_rebuild_tensor),
    "torch._utils _rebuild_parameter": _Function(_rebuild_parameter),
    **{f"torch {name}": _StorageType(dtype) for name, dtype in _STORAGES.items()},
}


def _named(name: str) -> Any:
    """One of the few names a state dict needs; every other one is refused, never imported."""
    if name not in _NAMES:
        raise _Refused(f"a pickle that calls {name.replace(' ', '.')[:80]}")
    return _NAMES[name]
