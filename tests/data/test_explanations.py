"""(feature, sentence) pairs: those that the rule finds one review at a time."""

from __future__ import annotations

import re
import time

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5jax.data import words
from p5jax.data.explanations import explanation_columns
from p5jax.data.feature_words import OPINION_WORDS, extract_feature_words

FEATURES = ["sound", "price", "cable", "tone control"]
WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
SENTENCE_END = re.compile(
    r"(?<=[.!?])(?:[\"')\]]*\s+|(?<=[a-z)].)(?=[A-Z]))|\s(?<!\s\s)\s*(?<=\n)\s*"
)


def pairs_of(texts: list[str | None], features: list[str]) -> list[tuple[str, str] | None]:
    columns = explanation_columns(pa.chunked_array([texts], pa.string()), features)
    pairs = zip(*(column.to_pylist() for column in columns), strict=True)
    return [None if pair == (None, None) else pair for pair in pairs]


def pair_by_rule(text: str | None, features: list[str]) -> tuple[str, str] | None:
    """The rule read aloud: one sentence after the other, one feature after the other."""
    found: list[tuple[bool, int, int, str]] = []
    for place, sentence in enumerate(SENTENCE_END.split(text or "")):
        said = WORD.findall(sentence.lower())
        if len(sentence) < 8 or not 4 <= len(said) <= 30:
            continue
        for rank, feature in enumerate(features):
            if f" {feature} " in f" {' '.join(said)} ":
                opinion = not OPINION_WORDS.isdisjoint(said)
                found.append((opinion, rank, -place, " ".join(sentence.split())))
    if not found:
        return None
    _, rank, _, sentence = max(found)
    return features[rank], sentence


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
    assert pairs_of([text], FEATURES) == [expected]


SPOKEN = ["sound", "tone", "control", "tone control", "is", "good", "comfortable", "comfortably"]
SPOKEN += ["café", "ὀδός", "i", "so", "it's", "un-tone", "SOUND", "Ünder", "the", "weary", "sound_"]
SIGNS = [*" " * 20, ". ", "! ", "?", '." ', ".) ", "\n", " \n\n ", ".", ", ", "'", "-"]
SIGNS += ["\u00a0", "\0"]
REVIEWS = st.lists(
    st.lists(st.sampled_from(SPOKEN + SIGNS + SIGNS), max_size=60).map("".join) | st.none(),
    max_size=8,
)
LISTS = st.lists(
    st.sampled_from(
        ["sound", "tone", "tone control", "control is", "control is good", "comfortably", "café"]
        + ["good", "ὀδός", "it's", "un-tone", "the sound is good", "sound sound"]
    ),
    max_size=8,
    unique=True,
)


@settings(deadline=None)
@given(REVIEWS, LISTS)
def test_pairs_of_many_are_those_of_each(texts, features):
    assert pairs_of(texts, features) == [pair_by_rule(text, features) for text in texts]


@settings(deadline=None)
@given(REVIEWS, LISTS, st.integers(1, 60))
def test_pairs_do_not_depend_on_what_is_looked_through_at_once(texts, features, characters):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "CHARACTERS", characters)
        found = pairs_of(texts, features)
    assert found == [pair_by_rule(text, features) for text in texts]


@settings(deadline=None)
@given(st.text(alphabet="aso un.d!?pri ce\n", max_size=80))
def test_a_pair_is_a_piece_of_the_text_that_holds_its_feature(text):
    found = pairs_of([text], ["a", "sound", "price"])[0]
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
    assert pairs_of([text], FEATURES) != [None]
    extract_feature_words(pa.chunked_array([[text]]))
    assert time.process_time() - start < 0.4  # a megabyte takes less than a second for each


def test_columns_align_with_the_texts():
    texts = pa.chunked_array([["The sound is great here.", None], ["Nothing of note.", ""]])
    feature, sentence = explanation_columns(texts, ["sound"])
    assert feature.to_pylist() == ["sound", None, None, None]
    assert sentence.to_pylist() == ["The sound is great here.", None, None, None]


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
