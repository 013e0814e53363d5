"""Feature lists and (feature, sentence) pairs."""

from __future__ import annotations

import re
import time

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p5jax.core.errors import UserError
from p5jax.data.explanations import (
    WORD,
    PairFinder,
    explanation_columns,
    extract_feature_words,
    nouns_in,
    read_feature_words,
    sample_texts,
    sentence_spans,
    words_in,
)

FEATURES = ["sound", "price", "cable", "tone control"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The sound is really great.", ("sound", "The sound is really great.")),
        ("Nice sound.", None),  # two words
        ("It soundly beats all the others.", None),  # not the word itself
        ("The SOUND is\n great here.", None),  # a line end ends the sentence
        ("I got it. The Sound  is fine here! Yes.", ("sound", "The Sound is fine here!")),
        ("The sound was good.The cable was good.", ("cable", "The cable was good.")),
        # opinion goes before specificity
        ("The cable has some plug. The sound is lovely.", ("sound", "The sound is lovely.")),
        # the later word of the list is the more specific one
        ("The sound and the price are good.", ("price", "The sound and the price are good.")),
        ("A good price for that. Such a good price here.", ("price", "A good price for that.")),
        ("My tone control is good.", ("tone control", "My tone control is good.")),
        ("My control of tone is good.", None),
        ("good " * 30 + "sound.", None),  # 31 words
        ("good " * 29 + "sound.", ("sound", "good " * 29 + "sound.")),
        ("", None),
    ],
)
def test_pairs_by_hand(text, expected):
    assert PairFinder(FEATURES).pair(text) == expected


# The rule in one pattern that looks back at each position: slower, and the same sentences.
SENTENCE_END = re.compile(
    r"(?<=[.!?])(?:[\"')\]]*\s+|(?<=[a-z)].)(?=[A-Z]))|\s(?<!\s\s)\s*(?<=\n)\s*"
)


@given(st.text(alphabet="aB.!?)]'\" \n\t\u00a0é", max_size=40))
def test_sentences_end_as_the_rule_says(text):
    assert [text[start:end] for start, end in sentence_spans(text)] == SENTENCE_END.split(text)


# The same, for nouns.
NOUN = re.compile(
    r"\b(?:the|a|an|this|that|these|those|my|its|their|our|your|his|her|great|good|nice|bad|poor)"
    r"\s+(?:[a-z]+\s+)?([a-z]{3,20})"
    r"(?=\s*[.,;:!?]|\s+(?:is|are|was|were|and|or|of|for|with|on|in|to|but|that|has|have|at|from)\b|\s*$)"
)
_PIECES = ["the", "a", "good", "tin", "is", "zipper", "i" * 20, "é", "_", "1", "'", ".", "\n", "\t"]


@given(st.lists(st.sampled_from([*_PIECES, *" " * 8]), max_size=20).map("".join))
def test_nouns_stand_where_the_rule_says(text):
    assert nouns_in(text) == NOUN.findall(text)


@given(st.text(alphabet="aso un.d!?pri ce\n", max_size=80))
def test_a_pair_is_a_piece_of_the_text_that_holds_its_feature(text):
    found = PairFinder(["a", "sound", "price"]).pair(text)
    if found:
        feature, sentence = found
        assert sentence in " ".join(text.split())
        assert feature in sentence
        assert (
            4 <= len(sentence.replace(".", " ").replace("!", " ").replace("?", " ").split()) <= 30
        )


@pytest.mark.parametrize("unit", [" ", "\n", "\t", " \n", ". ", ".'", "the ", "the  good", "a'"])
def test_a_long_review_takes_linear_time(unit):
    text = f"The sound is good. A{unit * (200_000 // len(unit))}x"
    start = time.process_time()
    assert PairFinder(FEATURES).pair(text) is not None
    extract_feature_words([text])
    assert time.process_time() - start < 0.4  # a megabyte takes less than a second for each


def test_columns_align_with_the_texts():
    texts = pa.chunked_array([["The sound is great here.", None], ["Nothing of note.", ""]])
    feature, sentence = explanation_columns(texts, ["sound"])
    assert feature.to_pylist() == ["sound", None, None, None]
    assert sentence.to_pylist() == ["The sound is great here.", None, None, None]


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
    assert extract_feature_words(texts) == ["price", "strap", "zipper"]


def test_sampling_keeps_equal_distances(monkeypatch):
    texts = pa.chunked_array([[str(n) for n in range(10)]])
    assert list(sample_texts(texts)) == [str(n) for n in range(10)]
    monkeypatch.setattr("p5jax.data.explanations.SAMPLE", 4)
    monkeypatch.setattr("p5jax.data.explanations.BATCH", 4)
    assert list(sample_texts(texts)) == ["0", "3", "6", "9"]


def test_a_feature_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("Sound\n\nprice \nsound\ntone  control\n")
    assert read_feature_words(path) == ["sound", "price", "tone control"]
    path.write_text("...\n")
    with pytest.raises(UserError, match=r"words\.txt: found no word"):
        read_feature_words(path)
    with pytest.raises(UserError, match="no such file"):
        read_feature_words(tmp_path / "none")


def test_world_pairs_name_the_features_reviews_are_made_of(world):
    from p5jax.data.readers.synthetic import CATEGORIES

    features = world.reviews["feature"].to_pylist()
    sentences = world.reviews["sentence"].to_pylist()
    made = {feature for _, words in CATEGORIES.values() for feature in words}
    assert sum(feature in made for feature in features) > 0.9 * len(features)
    for feature, sentence, text in zip(
        features, sentences, world.reviews["text"].to_pylist(), strict=True
    ):
        assert feature is None or (feature in sentence.lower() and sentence in text)


@given(st.text(st.sampled_from("ab Z09'-_.,!\n\t\x1c\u2019\u00e9\u00df\u0660"), max_size=40))
def test_words_are_those_of_the_pattern(text):
    assert words_in(text) == WORD.findall(text)
