"""Decoded text as the metrics compare it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from p5jax.evaluation.metrics import without_rating

Texts = str | Sequence[str]


def answer(text: Texts, example: Mapping[str, Any], is_target: bool) -> Any:
    """Return a target as {"kind", "answer"}, and predicted text without blanks around it.

    Where the target states a rating before its sentence, predictions are without theirs.
    """
    if is_target:
        return {name: example[name].decode() for name in ("kind", "answer")}
    kind, whole = example["kind"].decode(), example["targets_pretokenized"]
    if kind == "text" and whole != example["answer"]:
        return _each(lambda each: without_rating(each).strip(), text)
    return _each(str.strip, text)


def _each(clean: Callable[[str], str], text: Texts) -> Texts:
    return clean(text) if isinstance(text, str) else [clean(each) for each in text]
