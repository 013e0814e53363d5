"""Feature words: the nouns of reviews, as a pattern finds them, and lists in files."""

from __future__ import annotations

import re
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5jax.core.errors import UserError
from p5jax.data import feature_words
from p5jax.data.feature_words import (
    OPINION_WORDS,
    STOP_WORDS,
    WORD,
    extract_feature_words,
    nouns_in,
    read_feature_words,
    sample,
)
from p5jax.data.words import Joined


def extracted(texts: list[str]) -> list[str]:
    return extract_feature_words(pa.chunked_array([texts], pa.string()))


# The rule in one pattern.
NOUN = re.compile(
    r"\b(?:the|a|an|this|that|these|those|my|its|their|our|your|his|her|great|good|nice|bad|poor)"
    r"\s+(?:[a-z]+\s+)?([a-z]{3,20})"
    r"(?=\s*[.,;:!?]|\s+(?:is|are|was|were|and|or|of|for|with|on|in|to|but|that|has|have|at|from)\b|\s*$)"
)
_PIECES = ["the", "a", "good", "tin", "is", "zipper", "i" * 20, "é", "_", "1", "'", ".", "\n", "\t"]


TEXT = st.lists(st.sampled_from([*_PIECES, *" " * 8]), max_size=20).map("".join)
TEXTS = st.lists(TEXT, min_size=1, max_size=5)


@settings(deadline=None)
@given(TEXTS)
def test_nouns_stand_where_the_rule_says(texts):
    joined = Joined.of(pa.array(texts))
    bounds = zip(*(places.tolist() for places in nouns_in(joined)), strict=True)
    found = [joined.lower.text[first:end] for first, end in bounds]
    assert found == [noun for text in texts for noun in NOUN.findall(text.lower())]


@settings(deadline=None)
@given(TEXTS)
def test_words_are_those_that_enough_reviews_use_as_nouns(texts):
    texts = texts * 3
    as_noun = Counter(noun for text in texts for noun in set(NOUN.findall(text.lower())))
    anywhere = Counter(word for text in texts for word in set(WORD.findall(text.lower())))
    expected = [
        word
        for word, count in sorted(as_noun.items(), key=lambda each: (-each[1], each[0]))
        if count >= 0.2 * anywhere[word] and word not in STOP_WORDS | OPINION_WORDS
    ]
    assert extracted(texts) == expected


def test_extracted_words_are_the_nouns_most_reviewed():
    texts = [
        "The zipper is broken and the strap was loose.",
        "My zipper was fine, I really like it.",
        "A great zipper for the price.",
        "The strap is nice. It quickly became the best.",
        "I love this strap, and the price is right.",
        "Pay the price. Run quickly.",
        "It was the same, the first, and the best.",
        "The same is true, the first is the best, the other one is the best.",
        "The same is the first and the best.",
    ]
    assert extracted(texts) == ["price", "strap", "zipper"]


def test_sampling_keeps_equal_distances(monkeypatch):
    texts = pa.chunked_array([[str(n) for n in range(7)], [str(n) for n in range(7, 10)]])
    assert sample(texts).to_pylist() == [str(n) for n in range(10)]
    monkeypatch.setattr(feature_words, "SAMPLE", 4)
    assert sample(texts).to_pylist() == ["0", "3", "6", "9"]


def test_a_feature_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("Sound\n\nprice \nsound\ntone  control\n")
    assert read_feature_words(path) == ["sound", "price", "tone control"]
    path.write_text("...\n")
    with pytest.raises(UserError, match=r"words\.txt: found no word"):
        read_feature_words(path)
    with pytest.raises(UserError, match="no such file"):
        read_feature_words(tmp_path / "none")
