"""A file that is replaced is there whole, or as it was before."""

from __future__ import annotations

import pytest

from p5jax.core.files import replace_text, replaced


def test_a_file_is_renamed_once_it_is_written(tmp_path):
    path = tmp_path / "table.parquet"
    replace_text(path, "old")
    with replaced(path) as beside:
        assert beside.parent == tmp_path
        assert beside.name.startswith(".")
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "table.parquet"
    replace_text(path, "old")

    def stopped():
        with replaced(path) as beside:
            beside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
