"""Words and sentences of many texts at once: those that patterns find in each."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from p5jax.data.feature_words import WORD
from p5jax.data.words import Joined, Vocabulary, blocks

# The rule in one pattern that looks back at each position.
SENTENCE_END = re.compile(
    r"(?<=[.!?])(?:[\"')\]]*\s+|(?<=[a-z)].)(?=[A-Z]))|\s(?<!\s\s)\s*(?<=\n)\s*"
)
SIGNS = "aB.!?)]'\" \n\t\u00a0é"
WORD_SIGNS = "ab Z09'-_.,!\n\t\x1c\u2019\u00e9\u00df\u0660\u212a🎻"


def texts(alphabet: str) -> st.SearchStrategy[list[str]]:
    long = st.builds(str.__mul__, st.sampled_from(alphabet), st.integers(9, 30))
    text = st.lists(st.sampled_from(alphabet) | long, max_size=30).map("".join)
    return st.lists(text, min_size=1, max_size=5)


def pieces(joined: Joined, first: np.ndarray, end: np.ndarray) -> list[list[str]]:
    """What lies between some places, text by text."""
    bounds = zip(joined.first.tolist(), joined.end.tolist(), strict=True)
    return [
        [joined.text[a:b] for a, b in zip(first.tolist(), end.tolist(), strict=True) if s <= a <= e]
        for s, e in bounds
    ]


@settings(deadline=None)
@given(texts(SIGNS) | texts(SIGNS[:-2]))
def test_sentences_end_as_the_rule_says(given):
    joined = Joined.of(pa.array(given))
    expected = [SENTENCE_END.split(text) for text in given]
    assert pieces(joined, *joined.sentences()) == expected


@settings(deadline=None)
@given(texts(WORD_SIGNS) | texts(WORD_SIGNS[:12]))
def test_words_are_those_of_the_pattern(given):
    joined = Joined.of(pa.array(given))
    assert pieces(joined, *joined.words) == [WORD.findall(text) for text in given]


WORDS = st.text(st.sampled_from("abé"), min_size=1, max_size=20)


@settings(deadline=None)
@given(st.lists(WORDS, max_size=20), st.lists(WORDS, unique=True, max_size=9), st.integers(0, 9))
def test_words_of_a_vocabulary_are_found(said, others, count):
    known = [*dict.fromkeys(said[:count] + others)]
    joined = Joined.of(pa.array([" ".join(said).upper()]))
    where, number = Vocabulary(known).among(joined, *joined.words)
    found = [(place, known[n]) for place, n in zip(where.tolist(), number.tolist(), strict=True)]
    assert found == [(place, word) for place, word in enumerate(said) if word in known]


def test_many_words_that_begin_alike_are_told_apart():
    known = [f"{'word' * 2}{n}" for n in range(3000)] + [f"w{n}" for n in range(3000)]
    asked = [*known[::7], "wordword", "w", "w7x", "wordword7x", "wordwor7"]
    joined = Joined.of(pa.array([" ".join(asked)]))
    where, number = Vocabulary(known).among(joined, *joined.words)
    assert number.tolist() == [*range(0, 6000, 7)]
    assert where.tolist() == [*range(len(known[::7]))]


@settings(deadline=None)
@given(st.lists(st.none() | st.text("aé ", max_size=9), max_size=9))
def test_blocks_have_every_text_once(given):
    found = {}
    for rows, joined in blocks(pa.chunked_array([given], pa.string())):
        bounds = zip(rows.tolist(), joined.first.tolist(), joined.end.tolist(), strict=True)
        found |= {row: joined.text[first:end] for row, first, end in bounds}
    assert found == {row: text for row, text in enumerate(given) if text}


def test_capitals_of_every_script_are_lower_and_in_their_place():
    joined = Joined.of(pa.array(["DİYARBAKIR ẞ", "KELVIN"]))
    assert joined.lower.text == "\0diyarbakir ß\0kelvin\0"
    where, number = Vocabulary(["kelvin", "ß"]).among(joined, *joined.words)
    assert (where.tolist(), number.tolist()) == ([1, 2], [1, 0])
