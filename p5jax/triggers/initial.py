"""The tokens that a search starts from."""

from __future__ import annotations

import re

import numpy as np

from p5jax.core.errors import UserError
from p5jax.runs.run import Run
from p5jax.triggers.layout import Layout

_PLACEHOLDER = re.compile(r"\{\w+\}")


def initial_tokens(run: Run, layout: Layout, initial: str, seed: int) -> np.ndarray:
    """Token ids [P] of whole words: sampled by `seed`, or the words of a prompt or of a text.

    Too few words are followed by random ones; words of a prompt that are not one token are left
    out. UserError for a given word that is not an allowed token.
    """
    allowed = run.vocabulary.trigger_tokens
    sampled = np.random.default_rng([seed, 0]).choice(np.flatnonzero(allowed), size=layout.slots)
    tokens: list[int] = []
    if initial in run.templates:
        words = _PLACEHOLDER.sub(" ", run.templates[initial].inputs).split()
        encoded = [run.vocabulary.encode(word) for word in words]
        tokens = [ids[0] for ids in encoded if len(ids) == 1 and allowed[ids[0]]]
    elif initial != "random":
        tokens = [_token(run, word) for word in initial.split()]
        if len(tokens) > layout.slots:
            raise UserError(f"initial: found {len(tokens)} words, expected at most {layout.slots}")
    tokens = tokens[: layout.slots]
    return np.array([*tokens, *sampled[len(tokens) :]], np.int32)


def _token(run: Run, word: str) -> int:
    ids = run.vocabulary.encode(word)
    if len(ids) != 1 or not run.vocabulary.trigger_tokens[ids[0]]:
        raise UserError(
            f"initial: found {word!r}, expected random, a prompt id of the run, or words that are"
            " one token of its vocabulary"
        )
    return ids[0]
