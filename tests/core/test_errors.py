"""Messages are one line of a length that can be read."""

from __future__ import annotations

from p5jax.core.errors import UserError


def test_a_message_is_one_line_without_control_characters():
    assert str(UserError("two\nlines\x1b[31m ü")) == "two\\nlines\\x1b[31m ü"


def test_a_long_message_keeps_its_beginning_and_its_end():
    text = str(UserError(f"a.json:1: found {'9' * 5000}, expected a number"))
    assert text.startswith("a.json:1: found 999")
    assert text.endswith("999, expected a number")
    assert len(text) < 1100
    assert " … " in text
