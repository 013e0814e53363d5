"""Found sentences and headlines against brute force."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from damaged_world import sound
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from p5jax.data.dataset import SPLITS, TEST, TRAIN, VALIDATION
from p5jax.evaluation.baselines.reviews import Reviews
from p5jax.evaluation.baselines.texts import leading_words, most_typical, typical_sentences


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 4))
def test_most_typical_is_the_most_like_the_others(seed, size, groups):
    rng = np.random.default_rng(seed)
    vectors = rng.random((size, 5)) * rng.integers(0, 2, (size, 5))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.where(lengths > 0, lengths, 1)
    group = rng.integers(0, groups, size).tolist()
    found = most_typical(sp.csr_array(vectors), group)
    assert set(found) == set(group)
    for name, row in found.items():
        members = [n for n in range(size) if group[n] == name]
        mean = {n: sum(vectors[n] @ vectors[m] for m in members if m != n) for n in members}
        best = max(mean.values())
        assert row == min(n for n in members if mean[n] > best - 1e-9)


def explained(tmp_path, sentences, asked):
    """What is said of (item, feature) pairs, given training (item, feature, sentence) rows."""
    parts = sound()
    reviews = parts.tables["reviews"]
    for name in ("feature", "sentence"):
        reviews[name] = [None] * len(reviews["user"])
    training = [row for row, split in enumerate(reviews["split"]) if split == TRAIN]
    for row, (item, feature, sentence) in zip(training, sentences, strict=False):
        reviews["item"][row], reviews["feature"][row] = item, feature
        reviews["sentence"][row] = sentence
    users = []
    for user, (item, feature) in enumerate(asked):
        row = parts.find("reviews", TEST, user)
        reviews["item"][row], reviews["feature"][row] = item, feature
        users.append(user)
    dataset = parts.write(tmp_path / "d")
    reviews = Reviews.of(dataset, "test").by(np.array(users), np.array([item for item, _ in asked]))
    return typical_sentences(dataset, reviews)


def test_sentences_fall_back(tmp_path):
    """The item's with the feature, else the item's, else the feature's, else any."""
    rows = [
        (0, "string", "red strings"),
        (0, "string", "red strings make noise"),
        (0, "string", "noise"),
        (0, "case", "a hard case is nice"),
        (1, "case", "the case is a soft case"),
    ]
    asked = [(0, "case"), (0, "string"), (0, "pick"), (3, "case"), (3, "pick")]
    found = explained(tmp_path, rows, asked)
    with_feature = found["typical_sentence_with_feature"]
    assert with_feature[:2] == ["a hard case is nice", "red strings make noise"]
    assert with_feature[2] == found["typical_sentence_of_item"][2]
    assert with_feature[3] in ("a hard case is nice", "the case is a soft case")
    everything = [sentence for _, _, sentence in rows]
    assert with_feature[4] == found["typical_sentence_of_item"][4] in everything
    assert len(set(found["typical_sentence_of_item"][:3])) == 1
    of_feature = found["typical_sentence_of_feature"]
    assert of_feature[0] == of_feature[3] == with_feature[3]
    assert of_feature[1] == "red strings make noise"
    assert of_feature[2] == of_feature[4] in everything


def test_as_many_words_as_suit_validation_headlines(world):
    reviews = Reviews.of(world, "test")
    rouge = RougeScorer(["rougeL"])
    held = [row for row in world.reviews.to_pylist() if row["split"] == SPLITS.index("validation")]

    def first(text, count):
        return " ".join(text.split()[:count])

    def likeness(count):
        pairs = [(row["headline"], first(row["text"], count)) for row in held if row["headline"]]
        return np.mean([rouge.score(*pair)["rougeL"].fmeasure for pair in pairs])

    values = [likeness(count) for count in range(1, 13)]
    count = int(np.argmax(values)) + 1
    expected = [first(text, count) for text in reviews.texts("text")]
    assert leading_words(world, reviews) == expected


def test_headlines_of_the_test_split_choose_nothing(tmp_path):
    parts = sound()
    reviews = parts.tables["reviews"]
    for row, split in enumerate(reviews["split"]):
        words = [f"w{n}" for n in range(8)]
        reviews["text"][row] = " ".join(words)
        reviews["headline"][row] = " ".join(words[: {TRAIN: 7, VALIDATION: 3, TEST: 5}[split]])
    dataset = parts.write(tmp_path / "d")
    assert set(leading_words(dataset, Reviews.of(dataset, "test"))) == {"w0 w1 w2"}


def test_reviews_of_pairs_in_their_order(world):
    pairs = [(row["user"], row["item"]) for row in world.reviews.to_pylist() if not row["split"]]
    users, items = np.array([pairs[place] for place in (9, 1, 2, 40)]).T
    found = Reviews.of(world, "train").by(users, items)
    assert found.table["user"].to_pylist() == users.tolist()
    assert found.items().tolist() == items.tolist()
