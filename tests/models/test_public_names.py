"""The names that p5jax.models offers, and what importing the package costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import p5jax.models


def test_public_names_are_imported_where_they_are_asked_for():
    program = "import sys, p5jax.models as m; assert 'jax' not in sys.modules; "
    program += "print(m.Transformer.__name__, m.T5Config.__name__, *m.__all__)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["Transformer", "T5Config", "T5Config", "Transformer"]
    with pytest.raises(AttributeError, match="no attribute 'Bert'"):
        p5jax.models.Bert  # noqa: B018
