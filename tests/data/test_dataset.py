"""A dataset's users and items, by the keys of their source."""

from __future__ import annotations

import numpy as np
import pytest

from p5jax.core.errors import UserError
from p5jax.data.dataset import Dataset, key_list
from p5jax.data.prepare import prepare


@pytest.fixture
def numbered(tmp_path) -> Dataset:
    """Three users of the same three items."""
    (tmp_path / "n.inter").write_text(
        "user_id:token\titem_id:token\n"
        + "".join(f"{user}\t{item}\n" for user in ("12", "-x", "a,b") for item in (7, 8, 9))
    )
    return prepare("recbole", tmp_path / "out", folder=tmp_path, k_core=1)


def test_keys_may_be_given_as_numbers(numbered):
    for key in ("12", 12, np.int64(12)):
        assert numbered.user_keys[numbered.user_index(key)] == "12"
    assert numbered.item_keys[numbered.item_index(7)] == "7"
    with pytest.raises(UserError, match=r"user '13' is not in the dataset; did you mean 12"):
        numbered.user_index(13)
    for key in (12.0, None, True, b"12"):
        with pytest.raises(UserError, match=r"expected a key, a text or a whole number"):
            numbered.user_index(key)


def test_a_list_of_keys_is_no_single_key():
    assert key_list(["a", 1], "users") == ["a", 1]
    assert key_list(np.array([1, 2]), "users") == [1, 2]
    for key in ("a,b", 12, None):
        with pytest.raises(
            UserError, match=r"users: found .*, expected a list of keys, such as \["
        ):
            key_list(key, "users")
