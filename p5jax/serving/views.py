"""What a model reads of a question, and where it was asked how an item's id goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from p5jax.inference.prefixes import search_steps
from p5jax.prompts.template import HISTORY_SEPARATORS
from p5jax.serving.question import Case
from p5jax.serving.ranker import Prompted, Ranker
from p5jax.serving.settings import BulkConfig

_MOST_PREFIXES = 10  # of a step that are shown


@dataclass(frozen=True)
class SeenPrefix:
    """A beginning of item ids as tokens, how many items' ids begin so, and a log-probability,
    above which none of theirs is."""

    tokens: tuple[str, ...]
    items: int
    log_probability: float


@dataclass(frozen=True)
class SearchStep:
    """A step of the search for an item's id: how many beginnings of ids there are, how many of
    them were continued, and the most probable ones of these."""

    prefixes: int
    entered: int
    best: tuple[SeenPrefix, ...]


@dataclass(frozen=True)
class View:
    """What the model reads of a question: a prompt's text and tokens, how the answer begins, and
    how many of the known items of the history are told; and the steps of the search.

    No step where each id is one choice, as ids of one token are.
    """

    prompt: str
    text: str
    tokens: tuple[str, ...]
    begins: str
    known: int
    told: int
    steps: tuple[SearchStep, ...]


def views_of(ranker: Ranker, case: Case, prompts: Sequence[str], beam: int) -> list[View]:
    """Return what is read and searched of a case for each prompt, by a search as wide as `beam`."""
    family, vocabulary = ranker.family("sequential"), ranker.run.vocabulary
    found = []
    for name in prompts:
        (prompted,) = ranker.prompted([case], [name])
        (prompt,) = prompted.prompts
        text = family.inputs_for(name, "item", case.user, history=case.history)
        found.append(
            View(
                name,
                text,
                tuple(vocabulary.piece(token) for token in prompt.tokens),
                prompt.given,
                len(case.history),
                _told(ranker, name, text, prompt.given, case.history),
                _steps(ranker, prompted, name, beam),
            )
        )
    return found


def _told(ranker: Ranker, prompt: str, text: str, given: str, history: np.ndarray) -> int:
    """How many of the last items a prompt's text or its answer's beginning holds."""
    source, last = ranker.family("sequential").source, len(history)
    for start in range(last):
        rest = history[start:]
        ids = HISTORY_SEPARATORS[0].join(source.fields.ids(rest))
        if ids in text or (given and source.listed(rest) == given):
            return last - start
    return 0


def _steps(ranker: Ranker, prompted: Prompted, prompt: str, beam: int) -> tuple[SearchStep, ...]:
    """The steps of the search that ranks the catalogue."""
    run, config = ranker.run, BulkConfig(prompts=(prompt,), beam=beam)
    (asked,) = ranker.asked([prompted], config)
    exclude = ranker.excluded([prompted.case], config.exclude_history)
    return tuple(
        SearchStep(
            step.prefixes,
            len(step.entered),
            tuple(
                SeenPrefix(
                    tuple(run.vocabulary.piece(token) for token in prefix.tokens),
                    prefix.items,
                    prefix.logp,
                )
                for prefix in step.entered[:_MOST_PREFIXES]
            ),
        )
        for step in search_steps(run.model, run.params, asked, beam, exclude)
    )
