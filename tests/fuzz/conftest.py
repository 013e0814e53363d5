"""The worlds that are damaged, made once."""

from __future__ import annotations

import pytest
from campaign import make_worlds


@pytest.fixture(scope="session")
def worlds(tmp_path_factory):
    """A sound file of every kind."""
    folder = tmp_path_factory.mktemp("fuzz") / "worlds"
    make_worlds(folder)
    return folder
