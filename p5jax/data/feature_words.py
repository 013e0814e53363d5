"""Feature words: what reviews are about, from a file or from the reviews of training."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from p5jax.core.errors import UserError
from p5jax.core.threads import in_threads
from p5jax.data.readers.lines import LineErrors, read_lines
from p5jax.data.words import LETTER, LOWER, SPACE, Joined, Vocabulary, blocks, edges_of

MAX_FEATURES = 500
SAMPLE = 200_000  # reviews that an extracted list is made from, at most
BATCH = 5_000  # of them that are looked through at once
EXTRACTED = "extracted from training reviews"  # where the manifest says a list comes from

WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
# A noun that opinions are about is mostly found in "the <adjective?> NOUN is/and/for …" or before
# a punctuation mark: after one of the first of these words, and before one of the others.
BEFORE_NOUNS = (
    *("the", "a", "an", "this", "that", "these", "those", "my", "its", "their", "our", "your"),
    *("his", "her", "great", "good", "nice", "bad", "poor"),
)
BEHIND_NOUNS = (
    *("is", "are", "was", "were", "and", "or", "of", "for", "with", "on", "in", "to", "but"),
    *("that", "has", "have", "at", "from"),
)
PUNCTUATION = np.array([*b".,;:!?"])
_AROUND_NOUNS = Vocabulary([*dict.fromkeys(BEFORE_NOUNS + BEHIND_NOUNS)])
_OPENS, _CLOSES = (
    np.array([word in words for word in _AROUND_NOUNS.numbers])
    for words in (BEFORE_NOUNS, BEHIND_NOUNS)
)
SHORTEST, LONGEST = 3, 20  # letters of a noun
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


def extract_feature_words(texts: pa.ChunkedArray) -> list[str]:
    """Return the nouns that reviews are about, by the number of reviews that use them as such.

    A word counts as a noun after an article, possessive or plain adjective and before a
    punctuation mark or function word. A feature is used like this in at least 3 reviews (2 in a
    thousand of a larger corpus) and in at least NOUN_SHARE of the reviews that contain it; opinion
    words and stop words are excluded. Pass training text only, or a sample of it.
    """
    reviews, as_noun = 0, Counter[str]()
    for _, (count, nouns) in in_threads(_nouns, _parts(texts)):
        reviews += count
        as_noun.update(nouns)
    least = max(3, reviews // 500)
    known = [word for word, count in as_noun.items() if count >= least]
    words = Vocabulary([word for word in known if word not in STOP_WORDS | OPINION_WORDS])
    anywhere = np.zeros(len(words.numbers), np.int64)
    for _, counts in in_threads(functools.partial(_uses, words), _parts(texts)):
        anywhere += counts
    features = [
        (-as_noun[word], word)
        for word, number in words.numbers.items()
        if as_noun[word] >= NOUN_SHARE * anywhere[number]
    ]
    return [word for _, word in sorted(features)[:MAX_FEATURES]]


def sample(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the texts, or about SAMPLE of them at regular intervals when there are more."""
    return texts.take(pa.array(np.arange(0, len(texts), sample_step(len(texts)))))


def sample_step(count: int) -> int:
    """Return every how many reviews, of so many, one is looked at for feature words."""
    return -(-count // SAMPLE) or 1


def _parts(texts: pa.ChunkedArray) -> Iterator[pa.ChunkedArray]:
    return (texts.slice(start, BATCH) for start in range(0, len(texts), BATCH))


def _nouns(texts: pa.ChunkedArray) -> tuple[int, Counter[str]]:
    """Return how many texts there are, and how many have each word as a noun."""
    count, found = 0, Counter[str]()
    for rows, joined in blocks(texts):
        count += len(rows)
        first, end = nouns_in(joined)
        text = np.searchsorted(joined.first, first, side="right").tolist()
        lowered, bounds = joined.lower.text, zip(first.tolist(), end.tolist(), strict=True)
        nouns = (lowered[a:b] for a, b in bounds)
        found.update(noun for _, noun in set(zip(text, nouns, strict=True)))
    return count, found


def nouns_in(texts: Joined) -> tuple[np.ndarray, np.ndarray]:
    """Return where the words begin and end that stand where a noun does, int64 [M] each.

    The forms of two do not overlap: what begins within one before it is none.
    """
    lower = texts.lower
    edges = edges_of(lower.has(LOWER))
    first, end = edges[::2], edges[1::2]
    where, number = _AROUND_NOUNS.among(texts, first, end)
    closes, opens = where[_CLOSES[number]], where[_OPENS[number]]
    closing = np.zeros(len(first) + 1, bool)  # one more, for what is next to the last
    closing[closes[~_in_word(lower, end[closes])]] = True
    beginning = np.append(first, -1)

    def next_is(words: np.ndarray, kind: np.ndarray | bool = True) -> np.ndarray:
        """Whether there are spaces behind words, and then a word of a kind."""
        after = lower.past(end[words], SPACE)
        found: np.ndarray = (after > end[words]) & (beginning[words + 1] == after) & kind
        return found

    def is_noun(words: np.ndarray) -> np.ndarray:
        after = lower.past(end[words], SPACE)
        length = end[words] - first[words]
        at_end = lower.end[np.searchsorted(lower.end, after)] == after
        stops = at_end | np.isin(lower.codes[after], PUNCTUATION)
        followed = next_is(words, closing[words + 1])
        found: np.ndarray = (length >= SHORTEST) & (length <= LONGEST) & (stops | followed)
        return found

    opens = opens[~_in_word(lower, first[opens] - 1)]
    opens = opens[next_is(opens)]
    noun = opens + 1
    adjective = np.flatnonzero(next_is(noun))  # or what may be one
    described = adjective[is_noun(noun[adjective] + 1)]
    found = is_noun(noun)
    noun[described] += 1
    found[described] = True
    taken, last = list[int](), -1
    for opening, word in zip(opens[found].tolist(), noun[found].tolist(), strict=True):
        if opening > last:
            taken.append(word)
            last = word
    return first[taken], end[taken]


def _in_word(texts: Joined, positions: np.ndarray) -> np.ndarray:
    """Whether characters are such as names of programs are made of."""
    found: np.ndarray = texts.has(LETTER, positions) | (texts.codes[positions] == ord("_"))
    return found


def _uses(words: Vocabulary, texts: pa.ChunkedArray) -> np.ndarray:
    """Return how many of the texts have each of the words [V]."""
    counts = np.zeros(len(words.numbers), np.int64)
    for _, joined in blocks(texts):
        first, end = joined.words
        where, number = words.among(joined, first, end)
        text = np.searchsorted(joined.first, first[where], side="right")
        once = np.unique(text * len(counts) + number)
        counts += np.bincount(once % len(counts), minlength=len(counts)) if len(once) else 0
    return counts
