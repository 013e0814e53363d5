"""Explanations: one (feature word, sentence) pair per review, taken from the review's own text."""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from p5jax.core.errors import UserError
from p5jax.core.processes import in_processes
from p5jax.data.readers.lines import LineErrors, read_lines, with_progress
from p5jax.data.readers.texts import TEXT

MIN_WORDS, MAX_WORDS = 4, 30  # length of an explanation sentence
MAX_FEATURES = 500
SAMPLE = 200_000  # reviews that an extracted list is made from, at most
BATCH = 20_000
EXTRACTED = "extracted from training reviews"  # where the manifest says a list comes from

WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
# What ASCII has between words becomes a space, but for the signs within words.
_SPACED = {code: " " for code in range(128) if not chr(code).isalnum() and chr(code) not in "'-"}
# A sentence ends at its mark before a space, where the space was lost ("so.It"), or at a line end.
# The forms begin with the mark, which `re` finds quickly; it belongs to its sentence.
# `(?<!\s\s)`: a run of spaces is looked through from its first one alone, in linear time.
MARKS = ".!?"
_MARK_END = rf"""[{MARKS}](?:["')\]]*\s+|(?<=[a-z)].)(?=[A-Z]))"""
MARK_END = re.compile(_MARK_END)
MARK_OR_LINE_END = re.compile(_MARK_END + r"|\s(?<!\s\s)\s*(?<=\n)\s*")

# A noun that opinions are about is mostly found in "the <adjective?> NOUN is/and/for …" or before
# a punctuation mark. The form begins with the sign before it, which `re` finds quickly.
# What is taken is not given back, for a part of a word is never followed by what must follow.
NOUN = re.compile(
    r"\W(?:the|a|an|this|that|these|those|my|its|their|our|your|his|her|great|good|nice|bad|poor)"
    r"\s++(?:[a-z]++\s++)?([a-z]{3,20}+)(?=\s*+(?:[.,;:!?]|$)"
    r"|\s++(?:is|are|was|were|and|or|of|for|with|on|in|to|but|that|has|have|at|from)\b)"
)
NOUN_SHARE = 0.2  # the least share of the reviews with a word that use it as such a noun

# Words that match as nouns but tell nothing about an item.
_STOP = (
    "about above actually addition after again all almost already also although always amazon "
    "and another any anyone anything are around away back because been before being best better "
    "big bit both bought bucks but buy came can cannot case cheap come comes couple course "
    "daughter day days deal did different does doing done down downside each easy either else "
    "end enough even ever every everyone everything exactly extra fact fan far few find fine "
    "first for found four friend from full get gets getting give glad goes going good got great "
    "guy had half happy hard has have having her here highly him his hour hours how husband "
    "idea into item items its itself job just keep kid kind know last least less let like "
    "little long look looks lot lots love luck made make makes many may maybe might minute "
    "minutes mistake moment money month months more most mother much must myself need needs "
    "never new next nice night non not nothing now off old once one ones only order other "
    "others our out over own part past people perfect person plus point pretty problem problems "
    "product products put quite rather real really reason recommend rest review reviews right "
    "said same save say says second see seem seems sells set several she should side since "
    "small some someone something son star stars stays still stuff such sure take than that the "
    "their them then there these they thing things think third this those though three time "
    "times too top total tried try two under until upon use used using very want was way ways "
    "week weeks well went were what when where which while who whole why wife will with without "
    "won wonderful work worked working works world worth would wrong year years yes yet you "
    "your "
)
STOP_WORDS = frozenset(_STOP.split())

# Words of opinion or praise: a sentence with one explains more than a sentence without.
_OPINION = (
    "acceptable accurate amazing annoying average awesome awful bad beautiful best better "
    "bright broken cheap clean clear comfortable complaint decent deep defective delicious "
    "difficult disappointed disappointing durable easily easy effective enjoy excellent "
    "expensive fantastic fast favorite favourite fine flawless flimsy fragile fun good "
    "gorgeous great happy hard hate heavy horrible ideal impressed impressive incredible "
    "inexpensive issue lacks light like loose loud love loved lovely loves nice noisy "
    "ordinary outstanding perfect perfectly pleasant pleased pleasing poor poorly precise "
    "pretty problem quick quiet reasonable recommend regret reliable rough satisfied sharp "
    "sleek smooth soft solid stiff strong sturdy superb terrible terrific thick thin tight "
    "ugly unbeatable uncomfortable unfortunately useful useless warm weak well wonderful "
    "worse worst worth wrong"
)
OPINION_WORDS = frozenset(_OPINION.split())


def words_in(text: str) -> list[str]:
    """Return what WORD finds in a text, several times faster where all of it is ASCII."""
    return _words_of(text.translate(_SPACED)) if text.isascii() else WORD.findall(text)


def _words_of(spaced: str) -> list[str]:
    """Return the words of an ASCII text in which spaces are between them."""
    found = spaced.split()
    if "'" not in spaced and "-" not in spaced:
        return found
    words = list[str]()
    for word in found:
        if word.isalnum():
            words.append(word)
        else:
            words += WORD.findall(word)
    return words


def nouns_in(lowered: str) -> list[str]:
    """Return the words of a text in lower case that stand where a noun does."""
    return NOUN.findall(f" {lowered}")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return where the sentences of a text begin and end, what is between them left out."""
    spans, start = list[tuple[int, int]](), 0
    ends = MARK_OR_LINE_END.finditer(text) if "\n" in text else MARK_END.finditer(text)
    for end in ends:
        first = end.start()
        spans.append((start, first + (text[first] in MARKS)))
        start = end.end()
    spans.append((start, len(text)))
    return spans


def read_feature_words(path: Path) -> list[str]:
    """Read a feature list: one word or phrase per line, most frequent first; repeats are dropped.

    UserError when the file is missing, empty or not text.
    """
    lines = read_lines(path, LineErrors(skip=False), "a feature word a line, most frequent first")
    words = (" ".join(WORD.findall(line.lower())) for _, line in lines)
    features = list(dict.fromkeys(word for word in words if word))
    if not features:
        raise UserError(f"{path}: found no word, expected a feature word a line")
    return features


def extract_feature_words(texts: Iterable[str]) -> list[str]:
    """Return the nouns that reviews are about, by the number of reviews that use them as such.

    A word counts as a noun after an article, possessive or plain adjective and before a
    punctuation mark or function word. A feature is used like this in at least 3 reviews (2 in a
    thousand of a larger corpus) and in at least NOUN_SHARE of the reviews that contain it; opinion
    words and stop words are excluded. Pass training text only.
    """
    as_noun: Counter[str] = Counter()
    anywhere: Counter[str] = Counter()
    reviews = 0
    for part, (nouns, words) in in_processes(_counts, _batched(texts)):
        reviews += len(part)
        as_noun.update(nouns)
        anywhere.update(words)
    least = max(3, reviews // 500)
    features = [
        (-count, word)
        for word, count in as_noun.items()
        if count >= least
        and count >= NOUN_SHARE * anywhere[word]
        and word not in STOP_WORDS
        and word not in OPINION_WORDS
    ]
    return [word for _, word in sorted(features)[:MAX_FEATURES]]


def _batched(texts: Iterable[str]) -> Iterator[list[str]]:
    source = iter(texts)
    return iter(lambda: list(itertools.islice(source, BATCH)), [])


def _counts(texts: Sequence[str]) -> tuple[Counter[str], Counter[str]]:
    """Return how many texts have each word as a noun, and how many have it at all."""
    as_noun: Counter[str] = Counter()
    anywhere: Counter[str] = Counter()
    for text in texts:
        lowered = text.lower()
        as_noun.update(set(nouns_in(lowered)))
        anywhere.update(set(words_in(lowered)))
    return as_noun, anywhere


class PairFinder:
    """Finds the (feature, sentence) pair of a review for one feature list.

    The rule: among the review's sentences of 4 to 30 words that contain a feature, sentences with
    an opinion word (OPINION_WORDS) come first, then those with the most specific feature (the one
    latest in the list, which is sorted by falling frequency), then the earliest. Features match
    whole words, regardless of case.
    """

    def __init__(self, features: list[str]) -> None:
        self.rank = {feature: rank for rank, feature in enumerate(features)}
        self.words = frozenset(f for f in features if " " not in f)
        self.phrases = frozenset(f for f in features if " " in f)
        self.phrase_lengths = sorted({f.count(" ") + 1 for f in self.phrases})
        self.openings = frozenset(f.split(" ", 1)[0] for f in self.phrases)
        self.telling = self.words | OPINION_WORDS

    def pair(self, text: str) -> tuple[str, str] | None:
        """Return (feature, sentence), or None when no sentence qualifies."""
        best_value, best = (False, -1), ("", 0, 0)
        # All at once where it is ASCII, which keeps its length in lower case.
        spaced = text.lower().translate(_SPACED) if text.isascii() else None
        for start, end in sentence_spans(text):
            if end - start < 2 * MIN_WORDS:  # too short for four words
                continue
            words = _words_of(spaced[start:end]) if spaced else words_in(text[start:end].lower())
            if not MIN_WORDS <= len(words) <= MAX_WORDS:
                continue
            telling = self.telling.intersection(words)
            held = self.words.intersection(telling)
            if self.openings and not self.openings.isdisjoint(words):
                held |= self._phrases_in(words)
            if held:
                feature = max(held, key=self.rank.__getitem__)
                value = (not OPINION_WORDS.isdisjoint(telling), self.rank[feature])
                if value > best_value:
                    best_value, best = value, (feature, start, end)
        feature, start, end = best
        return (feature, " ".join(text[start:end].split())) if feature else None

    def _phrases_in(self, words: list[str]) -> frozenset[str]:
        grams = {
            " ".join(words[start : start + length])
            for length in self.phrase_lengths
            for start in range(len(words) - length + 1)
            if words[start] in self.openings
        }
        return self.phrases & grams


def explanation_columns(
    texts: pa.ChunkedArray, features: list[str]
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return the columns (feature, sentence), null where a review has no pair, for texts [N]."""
    reviews = pa.table({"text": texts})
    parts = (reviews.slice(start, BATCH) for start in range(0, max(1, len(texts)), BATCH))
    table = pa.concat_tables(explained(parts, features))
    return table["feature"], table["sentence"]


def explained(tables: Iterable[pa.Table], features: list[str]) -> Iterator[pa.Table]:
    """Yield tables of BATCH reviews or less with the columns feature and sentence behind theirs.

    They are null where a review has no pair.
    """
    find = functools.partial(_pairs, PairFinder(features))
    # Each with a memory of its own, or it is sent together with all that it was cut from.
    parts = (table.take(pa.array(np.arange(table.num_rows))) for table in tables)
    for table, pairs in with_progress(in_processes(find, parts), "explanations", "reviews", BATCH):
        for name, column in zip(("feature", "sentence"), pairs, strict=True):
            table = table.append_column(name, column)
        yield table


def _pairs(finder: PairFinder, reviews: pa.Table) -> tuple[pa.Array, pa.Array]:
    """Return the features and the sentences of reviews."""
    texts = reviews["text"].to_pylist()
    pairs = [(finder.pair(text) if text else None) or (None, None) for text in texts]
    feature, sentence = ([pair[n] for pair in pairs] for n in (0, 1))
    return pa.array(feature, TEXT), pa.array(sentence, TEXT)


def sample_step(count: int) -> int:
    """Return every how many reviews, of so many, one is looked at for feature words."""
    return -(-count // SAMPLE) or 1


def sample_texts(texts: pa.ChunkedArray) -> Iterable[str]:
    """Yield the texts, or about SAMPLE of them at regular intervals when there are more."""
    step, position = sample_step(len(texts)), 0
    for batch in batches(texts):
        yield from (text for text in batch[-position % step :: step] if text)
        position += len(batch)


def batches(texts: pa.ChunkedArray) -> Iterable[list[str | None]]:
    """Yield the texts as Python strings, BATCH at a time, so that few of them exist at once."""
    for start in range(0, len(texts), BATCH):
        yield texts.slice(start, BATCH).to_pylist()
