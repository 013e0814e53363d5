"""Prompt templates: text with placeholders, and the one place where a prompt's text is made."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn, Protocol

from p5jax.core.errors import UserError, shown
from p5jax.core.kinds import is_text
from p5jax.data.families import ABOUT, FAMILIES, ITEM

LIST_SEPARATOR = " , "
HISTORY_SEPARATORS = (" , ", " -> ")
TOLD = "{told} {yes_no}"  # an answer that first lists the history and the item asked about
NAMED = "{feature} : {explanation}"  # an answer that first names the feature its inputs ask for
LIST_END = ","  # of each item in an answer that lists items

# An input that would state the target outright.
_GIVEN_AWAY = {
    "rating": {"star"},
    "like": {"star"},
    "headline": {"headline"},
    "item": ITEM,
    "list": ITEM | {"hist", "cand"},
}
_CUT = ("got", "gave", "review", "headline", "title")


class TextEncoder(Protocol):
    """What rendering needs of a vocabulary: at most one id per character and one per word."""

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class PromptTemplate:
    """One prompt under its P5 id, e.g. "2-3".

    `inputs` and `targets` are text with {placeholders}. `seen` prompts are trained on, the others
    are only evaluated; a `zero_shot` prompt belongs to the family whose target it asks for and is
    never seen. UserError when a placeholder is unknown to the family or gives the target away.
    """

    id: str
    family: str
    inputs: str
    targets: str
    seen: bool = True
    zero_shot: bool = False

    def __post_init__(self) -> None:
        for name in ("id", "inputs", "targets"):
            text = getattr(self, name)
            if not is_text(text):
                raise UserError(f"prompt {self.id!r}: {name}: found {shown(text)}, expected text")
        if self.family not in FAMILIES:
            self._refuse(f"found family {self.family!r}, expected one of {', '.join(FAMILIES)}")
        if self.zero_shot and self.seen:
            self._refuse("found a seen zero-shot prompt, expected seen = false")
        kind = FAMILIES[self.family]
        self._check_names("inputs", self.fields, ABOUT | kind.inputs)
        self._check_names("targets", self.target_fields, kind.targets)
        given = set(self.fields)
        for target in self.target_fields:
            if leaks := given & _GIVEN_AWAY.get(target, set()):
                self._refuse(f"found {{{min(leaks)}}} in inputs, which gives {{{target}}} away")
        if "list" in self.target_fields and self.targets != "{list}":
            self._refuse(f"found {{list}} within {self.targets!r}, expected it alone")
        if self.targets != TOLD and "told" in self.target_fields:
            self._refuse(f"found {{told}} in {self.targets!r}, expected {TOLD!r}")
        if self.targets != NAMED and "feature" in self.target_fields:
            self._refuse(f"found {{feature}} in {self.targets!r}, expected {NAMED!r}")
        if self.targets == NAMED and "feature" not in given:
            self._refuse("found no {feature} in inputs, expected it, as the answer begins with it")
        asks = "told" in self.target_fields or given & kind.asks_about
        if "yes_no" in self.target_fields and not asks:
            self._refuse("found nothing in inputs to answer yes or no to")
        for name in ("hist", "cand"):
            if name in given and f" {{{name}}} " not in f" {' '.join(self.inputs.split())} ":
                self._refuse(f"found {{{name}}} joined to other text, expected spaces around it")

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The placeholders of `inputs`, in order."""
        return self._placeholders(self.inputs)

    @cached_property
    def target_fields(self) -> tuple[str, ...]:
        """The placeholders of `targets`, in order."""
        return self._placeholders(self.targets)

    @property
    def asks_for(self) -> tuple[str, ...]:
        """The placeholders of `targets`; a list of items is asked for as an item."""
        return tuple("item" if name == "list" else name for name in self.target_fields)

    def given(self, fields: Mapping[str, Any]) -> str:
        """What an answer that names the feature begins with; "" for others."""
        return f"{fields['feature']} :" if self.targets == NAMED else ""

    def _placeholders(self, text: str) -> tuple[str, ...]:
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            self._refuse(f"{error} in {text!r}")
        if any(spec or conversion for _, _, spec, conversion in parts):
            self._refuse(f"found a format specification in {text!r}, expected plain {{name}}")
        return tuple(name for _, name, _, _ in parts if name is not None)

    def _check_names(self, where: str, found: Sequence[str], known: Set[str]) -> None:
        for name in found:
            if name not in known:
                self._refuse(
                    f"found {{{name}}} in {where}, expected one of {', '.join(sorted(known))}"
                )
        # A list says itself what it is about.
        none = not found and not (where == "inputs" and self.targets in ("{list}", TOLD))
        if none or len(set(found)) < len(found):
            self._refuse(f"found no or repeated placeholders in {where}, expected each once")

    def _refuse(self, problem: str) -> NoReturn:
        raise UserError(f"prompt {self.id}: {problem}")


class Renderer:
    """Makes a prompt's text, within `max_source` tokens, end-of-sequence included.

    A prompt that is too long first loses its oldest history items (one is always kept), then the
    oldest known stars and the last words of its review, headline and title (one word of each is
    kept), so that the instruction is complete. UserError when that is not enough.
    """

    def __init__(self, vocabulary: TextEncoder, max_source: int):
        self.vocabulary = vocabulary
        self.max_source = max_source
        self._id_lengths: dict[str, int] = {}

    def render(self, template: PromptTemplate, fields: Mapping[str, Any]) -> tuple[str, str]:
        """Return (inputs, targets); `fields` maps the placeholders of both, see `inputs`."""
        return self.inputs(template, fields), template.targets.format_map(fields)

    def inputs(self, template: PromptTemplate, fields: Mapping[str, Any]) -> str:
        """Return the inputs alone.

        `fields` maps placeholders to text; `hist` and `cand` to lists of id texts, oldest first;
        `separator` joins the history.
        """
        values = dict(fields)
        if "cand" in values:
            values["cand"] = LIST_SEPARATOR.join(values["cand"])
        if "hist" in values:
            values["hist"] = fields["separator"].join(fields["hist"])
        inputs = template.inputs.format_map(values)
        # An ASCII character is at most one piece and a word adds at most one: no need to encode.
        if len(inputs) + 2 <= self.max_source and inputs.isascii():
            return inputs
        excess = self._excess(inputs)
        if excess > 0 and "hist" in template.fields:
            inputs, excess = self._drop_history(template, values, fields, excess)
        for name in _CUT:
            if excess > 0 and name in template.fields:
                inputs, excess = self._drop_words(template, values, name, excess)
        if excess > 0:
            raise UserError(
                f"prompt {template.id}: needs {self.max_source + excess} tokens,"
                f" {self.max_source} are allowed; raise the maximal source length"
            )
        return inputs

    def _excess(self, inputs: str) -> int:
        return len(self.vocabulary.encode(inputs)) + 1 - self.max_source

    def _id_length(self, word: str) -> int:
        length = self._id_lengths.get(word)
        if length is None:
            length = self._id_lengths[word] = len(self.vocabulary.encode(word))
        return length

    def _drop_history(
        self,
        template: PromptTemplate,
        values: dict[str, Any],
        fields: Mapping[str, Any],
        excess: int,
    ) -> tuple[str, int]:
        history, separator = fields["hist"], fields["separator"]
        separator_length = self._id_length(separator.strip())
        start = 0
        inputs = template.inputs.format_map(values)
        # Lengths add up over words except where SentencePiece rounds ties, so the sums are checked,
        # and more items are dropped where they are too small.
        while excess > 0 and start < len(history) - 1:
            while excess > 0 and start < len(history) - 1:
                excess -= self._id_length(history[start]) + separator_length
                start += 1
            values["hist"] = separator.join(history[start:])
            inputs = template.inputs.format_map(values)
            excess = self._excess(inputs)
        return inputs, excess

    def _drop_words(
        self, template: PromptTemplate, values: dict[str, Any], name: str, excess: int
    ) -> tuple[str, int]:
        words = values[name].split()
        inputs = template.inputs.format_map(values)
        while excess > 0 and len(words) > 1:
            while excess > 0 and len(words) > 1:
                excess -= len(self.vocabulary.encode(words.pop()))
            values[name] = " ".join(words)
            inputs = template.inputs.format_map(values)
            excess = self._excess(inputs)
        return inputs, excess
