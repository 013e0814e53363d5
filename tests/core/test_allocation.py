"""Arrow's memory is from the C library within `c_allocation`, and not behind it."""

import pyarrow as pa
import pytest

from p5jax.core.allocation import c_allocation


@c_allocation()
def made(fails: bool) -> pa.Array:
    array = pa.array(range(100_000))
    if fails:
        raise ValueError("wrong")
    return array


def test_memory_is_from_the_c_library_until_the_end():
    before, system = pa.default_memory_pool().backend_name, pa.system_memory_pool()
    taken = system.bytes_allocated()
    kept = made(fails=False)
    assert system.bytes_allocated() - taken >= kept.nbytes == 800_000
    with pytest.raises(ValueError, match="wrong"):
        made(fails=True)
    assert pa.default_memory_pool().backend_name == before
