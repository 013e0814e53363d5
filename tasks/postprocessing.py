"""Decoded text as the metrics compare it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from p5jax.evaluation.metrics import without_rating
from p5jax.tasks.metrics import ITEM_KINDS

Texts = str | Sequence[str]


def answer(text: Texts, example: Mapping[str, Any], is_target: bool) -> Any:
    """Return a target as {"kind", "answer"}, and predicted text without blanks around it.

    Where the target states a rating before its sentence, or names a feature, predictions are
    without theirs; where it begins with a list of known items, they are the first word after these.
    """
    if is_target:
        return {name: example[name].decode() for name in ("kind", "answer")}
    kind, whole = example["kind"].decode(), example["targets_pretokenized"]
    given = example["given"].decode()
    if kind == "text" and given:
        return _each(lambda each: each.strip().removeprefix(given).strip(), text)
    if kind == "text" and whole != example["answer"]:
        return _each(lambda each: without_rating(each).strip(), text)
    if kind in (*ITEM_KINDS, "yes_no") and whole != example["answer"]:
        return _each(lambda each: _next_word(each, given), text)
    return _each(str.strip, text)


def _next_word(text: str, given: str) -> str:
    words = text.strip().removeprefix(given).split()
    return words[0] if words else ""


def _each(clean: Callable[[str], str], text: Texts) -> Texts:
    return clean(text) if isinstance(text, str) else [clean(each) for each in text]
