"""No text of someone else's commands the terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p5jax.core.printing import one_line, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Été – 90 %\tв 3 ₽\n日本", "Été – 90 %\tв 3 ₽\n日本"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("a\rb\x08\x7f", r"a\rb\x08\x7f"),
        ("\x9b31m", r"\x9b31m"),  # ESC [ in one character
        ("a\u202eb", r"a\u202eb"),
        ("\0", r"\x00"),
    ],
)
def test_what_would_command_the_terminal_is_written_out(text, shown):
    assert plain(text) == shown
    assert one_line(text) == shown.replace("\n", r"\n")


@given(st.text())
def test_no_control_character_is_left(text):
    left = {unicodedata.category(each) for each in one_line(text).replace("\t", "")}
    assert "Cc" not in left
