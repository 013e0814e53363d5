"""The text of prompts with trigger tokens."""

from __future__ import annotations

from collections.abc import Sequence

from p5jax.prompts.template import PromptTemplate
from p5jax.triggers.layout import PROMPT_ID, Layout

# What a family's prompt is about, and what it asks for.
_TASKS = {
    "sequential": ("{uid} {hist}", "{item}"),
    "direct": ("{uid} {cand}", "{item}"),
    "explanation": ("{uid} {title}", "{explanation}"),
}


def arguments_template(family: str) -> PromptTemplate:
    """The prompt of one of TRIGGER_FAMILIES without its triggers."""
    inputs, targets = _TASKS[family]
    return PromptTemplate(PROMPT_ID, family, inputs, targets)


def trigger_template(family: str, layout: Layout, words: Sequence[str]) -> PromptTemplate:
    """The prompt of a family with its task `words` written out, and {trigger} for the user's."""
    arguments = arguments_template(family)

    def text(slots: tuple[int, ...]) -> list[str]:
        shared = [words[slot] for slot in slots if slot < layout.task_tokens]
        if len(shared) == len(slots):
            return shared
        own_first = slots[0] >= layout.task_tokens
        return ["{trigger}", *shared] if own_first else [*shared, "{trigger}"]

    before, after = layout.sides
    inputs = " ".join([*text(before), arguments.inputs, *text(after)])
    return PromptTemplate(PROMPT_ID, family, inputs, arguments.targets, seen=False)
