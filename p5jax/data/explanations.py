"""Explanations: one (feature word, sentence) pair per review, taken from the review's own text."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from p5jax.core.threads import in_threads
from p5jax.data.feature_words import OPINION_WORDS
from p5jax.data.readers.lines import with_progress
from p5jax.data.readers.texts import TEXT
from p5jax.data.words import Joined, Vocabulary, blocks

MIN_WORDS, MAX_WORDS = 4, 30  # length of an explanation sentence
BATCH = 20 << 10


class PairFinder:
    """Finds the (feature, sentence) pairs of reviews for one feature list.

    The rule: among the review's sentences of 4 to 30 words that contain a feature, sentences with
    an opinion word (OPINION_WORDS) come first, then those with the most specific feature (the one
    latest in the list, which is sorted by falling frequency), then the earliest. Features match
    whole words, regardless of case.
    """

    def __init__(self, features: Sequence[str]) -> None:
        self.features = pa.array(features, TEXT)
        phrases = [feature.split(" ") for feature in features]
        self._vocabulary = Vocabulary([*dict.fromkeys(itertools.chain(*phrases, OPINION_WORDS))])
        numbers = self._vocabulary.numbers
        self._opinion = np.array([word in OPINION_WORDS for word in numbers])
        # A state is how a feature begins. That of a first word is the word's number.
        states: dict[int, int] = {}  # behind a state and a further word
        rank = dict[int, int]()
        for place, (first, *others) in enumerate(phrases):
            state = numbers[first]
            for word in others:
                step = state * len(numbers) + numbers[word]
                state = states.setdefault(step, len(numbers) + len(states))
            rank[state] = place
        self._rank = np.array([rank.get(n, -1) for n in range(len(numbers) + len(states))])
        self._steps = np.array([*sorted(states), -1])  # one more, which no words make
        self._states = np.array([states.get(step, -1) for step in self._steps.tolist()])

    def pairs(self, texts: Joined) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return which of the texts [N] have a pair, each feature's place in the list, and the
        sentences."""
        first, end = texts.sentences()
        beginnings = texts.words[0]
        before = np.searchsorted(beginnings, first)
        count = np.searchsorted(beginnings, end) - before
        where, number = self._vocabulary.among(texts, *texts.words)
        sentence = np.searchsorted(before, where, side="right") - 1
        rank, opinion = np.full(len(first), -1), np.zeros(len(first), bool)
        np.maximum.at(rank, sentence, self._ranks(where, number, sentence))
        opinion[sentence[self._opinion[number]]] = True
        fits = (rank >= 0) & (count >= MIN_WORDS) & (count <= MAX_WORDS)
        fits &= end - first >= 2 * MIN_WORDS  # or it is too short for four words
        value = np.where(fits, rank + len(self.features) * opinion, -1)
        of_texts = np.searchsorted(first, texts.first)  # each text's first sentence
        best = np.repeat(np.maximum.reduceat(value, of_texts), np.diff([*of_texts, len(first)]))
        best = np.flatnonzero(fits & (value == best))
        text = np.searchsorted(texts.first, first[best], side="right") - 1
        text, earliest = np.unique(text, return_index=True)
        best = best[earliest]
        bounds = zip(first[best].tolist(), end[best].tolist(), strict=True)
        return text, rank[best], [_on_one_line(texts.text[a:b]) for a, b in bounds]

    def _ranks(self, where: np.ndarray, number: np.ndarray, sentence: np.ndarray) -> np.ndarray:
        """The last place in the list of the features that begin with each known word, -1 if none.

        All [M]: which words they are, their numbers in the vocabulary and their sentences.
        """
        found: np.ndarray = self._rank[number]
        begun, state, length = np.arange(len(number)), number, 0
        while len(begun) and len(self._steps) > 1:
            length += 1
            last = np.minimum(begun + length, len(number) - 1)
            follows = where[last] == where[begun] + length
            follows &= sentence[last] == sentence[begun]
            begun, step = begun[follows], (state * len(self._opinion) + number[last])[follows]
            at = np.searchsorted(self._steps[:-1], step)
            known = self._steps[at] == step
            begun, state = begun[known], self._states[at[known]]
            found[begun] = np.maximum(found[begun], self._rank[state])
        return found


def _on_one_line(sentence: str) -> str:
    """The sentence with one space where it has any, and none around it."""
    plain = sentence.isprintable() and "  " not in sentence and sentence == sentence.strip()
    return sentence if plain else " ".join(sentence.split())


def explanation_columns(
    texts: pa.ChunkedArray, features: list[str]
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return the columns (feature, sentence), null where a review has no pair, for texts [N]."""
    reviews = pa.table({"text": texts})
    starts = range(0, max(1, len(texts)), BATCH)
    parts = (functools.partial(reviews.slice, start, BATCH) for start in starts)
    table = pa.concat_tables(explained(parts, features))
    return table["feature"], table["sentence"]


def explained(
    parts: Iterable[Callable[[], pa.Table]], features: Sequence[str]
) -> Iterator[pa.Table]:
    """Yield tables of BATCH reviews or less with the columns feature and sentence behind theirs.

    They are null where a review has no pair. parts: what returns each table, when its turn comes.
    """
    find = functools.partial(_with_pairs, PairFinder(features))
    for _, table in with_progress(in_threads(find, parts), "explanations", "reviews", BATCH):
        yield table


def _with_pairs(finder: PairFinder, part: Callable[[], pa.Table]) -> pa.Table:
    """Return reviews with their features and sentences."""
    reviews = part()
    place = np.full(reviews.num_rows, -1)  # of each review's feature in the list
    at, sentences = np.full(reviews.num_rows, -1), list[str]()
    for rows, texts in blocks(reviews["text"]):
        found, positions, some = finder.pairs(texts)
        place[rows[found]] = positions
        at[rows[found]] = np.arange(len(some)) + len(sentences)
        sentences += some
    feature = finder.features.take(pa.array(place, mask=place < 0))
    sentence = pa.array(sentences, TEXT).take(pa.array(at, mask=at < 0))
    return reviews.append_column("feature", feature).append_column("sentence", sentence)
