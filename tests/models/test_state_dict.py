"""Pickles of a few bytes that ask for all memory or time: a line, at once."""

from __future__ import annotations

import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from p5jax.core.errors import UserError
from p5jax.models.checkpoints.state_dict import read_state_dict

FLOATS = np.arange(6, dtype="<f4")


def write(path, pickled, storages=None):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def pack(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(size, stride, offset=0, elements=6, key="0", dtype="Float"):
    """The codes of a tensor, as torch.save writes them."""
    storage = b"(" + text("storage") + f"ctorch\n{dtype}Storage\n".encode() + text(key)
    storage += text("cpu") + number(elements) + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset)
    return call + pack(size) + pack(stride) + b"\x89ccollections\nOrderedDict\n)RtR"


def pickled(**tensors):
    items = b"".join(text(name) + codes for name, codes in tensors.items())
    return b"\x80\x02ccollections\nOrderedDict\n)Rq\x00(" + items + b"u}" + text("v") + b"}sb."


def test_tensors_are_what_their_strides_say(tmp_path):
    made = pickled(a=tensor((2, 3), (3, 1)), b=tensor((3, 2), (1, 3)), c=tensor((), (), 4))
    read = read_state_dict(write(tmp_path / "a.pth", made, {"0": FLOATS.tobytes()}))
    assert list(read) == ["a", "b", "c"]
    np.testing.assert_array_equal(read["a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(read["b"], [[0, 3], [1, 4], [2, 5]])
    assert read["c"] == 4


DUP_TUPLES = b"2\x86" * 40
MEMO_TUPLES = b"".join(b"r" + struct.pack("<I", n) + b"j" + struct.pack("<I", n) + b"\x86"
                       for n in range(50))  # fmt: skip
BAD = {
    "a memo index of 2 GB": (b"\x80\x02}r\xff\xff\xff\x7f.", "no tensors"),
    "tuples of tuples by copies": (b"\x80\x02}K\x01" + DUP_TUPLES + b"Q.", "a pickle with DUP"),
    "tuples of tuples by memo": (
        b"\x80\x02}K\x01" + MEMO_TUPLES + b"Q.",
        "a reference that is no storage's",
    ),
    "as a key": (b"\x80\x02}K\x01" + MEMO_TUPLES + b"K\x01s.", "a key that is a tuple"),
    "as a value": (
        b"\x80\x02}" + text("w") + b"K\x01" + MEMO_TUPLES + b"s.",
        "a tuple under 'w'",
    ),
    "deep": (b"\x80\x02K\x01" + b"\x85" * 100_000 + b".", "a tuple"),
    "large": (b"\x80\x02" + b"N" * 2_000_000 + b".", "a data.pkl of more than 524288 bytes"),
    "long numbers": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "a broken file"),
    "a call": (
        b"\x80\x02cos\nsystem\n" + text("true") + b"\x85R.",
        "a pickle that calls os.system",
    ),
    "a call of data": (b"\x80\x02}" + text("x") + b"\x85R.", "a pickle that calls what is no"),
    "a name twice": (
        b"\x80\x02}" + (text("w") + b"Ns") * 2 + b".",
        "'w' twice",
    ),
    "nothing": (b"", "a broken file"),
    "nothing to take": (b"\x80\x020.", "a pickle with POP"),
    "an empty stack": (b"\x80\x02\x85.", "a pickle that takes more than there is"),
    "no end": (b"\x80\x02}", "a broken file"),
    "a view beyond": (pickled(w=tensor((7,), (1,))), "a tensor of shape (7,) outside"),
    "a huge view": (
        pickled(w=tensor((2**30, 2**30), (0, 0))),
        "a tensor of shape (1073741824, 1073741824) outside",
    ),
    "many dimensions": (pickled(w=tensor((1,) * 40, (1,) * 40)), "a malformed tensor"),
    "another type": (
        pickled(a=tensor((2,), (1,)), b=tensor((2,), (1,), dtype="Int")),
        "archive/data/0 as float32 and as int32",
    ),
    "other elements": (pickled(w=tensor((1,), (1,), elements=7)), "24 bytes in archive/data/0"),
    "no storage": (pickled(w=tensor((1,), (1,), key="1")), "no storage archive/data/1"),
}


@pytest.mark.parametrize("case", BAD)
def test_anything_else_is_one_line_at_once(tmp_path, case):
    data, message = BAD[case]
    path = write(tmp_path / "bad.pth", data, {"0": FLOATS.tobytes()})
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(UserError) as caught:
        read_state_dict(path)
    assert time.process_time() - started < 5
    assert tracemalloc.get_traced_memory()[1] < 2e8
    tracemalloc.stop()
    assert f"found {message}" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(path)) + 200


def test_views_take_no_memory_of_their_own(tmp_path):
    """A thousand views of one storage: a copy of each would be 400 MB."""
    data = np.zeros(100_000, "<f4").tobytes()
    views = {f"w{n}": tensor((100_000,), (1,), elements=100_000) for n in range(1000)}
    path = write(tmp_path / "a.pth", pickled(**views), {"0": data})
    tracemalloc.start()
    assert len(read_state_dict(path)) == 1000
    assert tracemalloc.get_traced_memory()[1] < 1e7
    tracemalloc.stop()
