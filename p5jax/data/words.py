"""The words and the sentences of many texts at once, as positions in one row of characters."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

CHARACTERS = 1 << 20  # that are looked through at once: what is found then fits a core's cache
# What a character is a part of. These forms make the table, so all of Unicode has its roles.
LETTER, JOINER, MARK, CLOSER, SPACE, LOWER, UPPER = (1 << bit for bit in range(7))
_FORMS = (
    (r"[^\W_]+", LETTER),  # or a digit
    (r"['’\-]", JOINER),  # of one word, between two letters
    (r"[.!?]", MARK),
    (r"""["')\]]""", CLOSER),
    (r"\s+", SPACE),
    (r"[a-z]+", LOWER),
    (r"[A-Z]+", UPPER),
)
STEPS = 8  # from a character to the next, before a long run of them is looked for
EIGHT = 8  # bytes of a word that are looked up as one number
_MASKS = np.array([(1 << 8 * count) - 1 for count in range(EIGHT + 1)], np.uint64)
SLOT_BITS = 16  # of a hash, by which it is looked for
_OF_BYTES, _OF_LENGTH = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)  # odd


@functools.cache
def _roles(count: int) -> np.ndarray:
    """The roles of the first so many characters of Unicode, uint8."""
    every = "".join(map(chr, range(count)))
    roles = np.zeros(count, np.uint8)
    for form, role in _FORMS:
        for found in re.finditer(form, every):
            roles[found.start() : found.end()] |= role
    return roles


class Joined:
    """Texts [N] behind one another, with a character of no role before and behind each of them.

    text: the whole; codes: its characters as numbers [C], uint8 where all are ASCII, else uint32;
    first, end: int64 [N], where each text begins and ends.
    """

    def __init__(self, text: str, first: np.ndarray, end: np.ndarray) -> None:
        self.text, self.first, self.end = text, first, end
        self.ascii = text.isascii()
        coded = text.encode("ascii" if self.ascii else "utf-32-le")
        self.codes = np.frombuffer(coded, np.uint8 if self.ascii else np.uint32)

    @staticmethod
    def of(texts: pa.Array) -> Joined:
        """Join strings [N], none of them null."""
        bounds = pa.array([0, len(texts)], pa.int32())
        joined = pc.binary_join(pa.ListArray.from_arrays(bounds, texts.cast(pa.string())), "\0")
        length = pc.utf8_length(texts).to_numpy().astype(np.int64)
        end = np.cumsum(length + 1)
        return Joined(f"\0{joined[0].as_py()}\0", end - length, end)

    @functools.cached_property
    def roles(self) -> np.ndarray:
        """The roles of the characters, uint8 [C]."""
        if self.ascii:
            return np.frombuffer(self.codes.tobytes().translate(_roles(256).tobytes()), np.uint8)
        found: np.ndarray = _roles(sys.maxunicode + 1)[self.codes]
        return found

    @functools.cached_property
    def lower(self) -> Joined:
        """The texts in lower case, every character in its place."""
        # İ alone becomes two
        return Joined(self.text.replace("İ", "i").lower(), self.first, self.end)

    @functools.cached_property
    def words(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the words begin and end, int64 [W] each: letters, joined by what joins them."""
        inside = self.roles & LETTER
        joining = (self.roles[1:-1] & JOINER) >> 1  # as LETTER is written
        inside[1:-1] |= joining & inside[:-2] & inside[2:]
        edges = edges_of(inside)
        return edges[::2], edges[1::2]

    def sentences(self) -> tuple[np.ndarray, np.ndarray]:
        """Return where the sentences begin and end, int64 [S] each, what is between them left out.

        One ends behind its mark, where a space follows, or a capital because the space was lost
        ("so.It"). Quotes and brackets may close between mark and space. One ends also at spaces
        with a line end among them.
        """
        mark = np.flatnonzero(self.has(MARK))
        closed = self.past(mark + 1, CLOSER)
        after = self.past(closed, SPACE)
        spaced = after > closed
        before = mark - 1
        lost = self.has(LOWER, before) | (self.codes[before] == ord(")"))
        cut = spaced | (lost & self.has(UPPER, mark + 1))
        ends, begins = [self.end, mark[cut] + 1], [self.first, after[cut]]
        if "\n" in self.text:
            line_end = np.flatnonzero(self.codes == ord("\n"))
            run = np.unique(self.past(line_end, SPACE, -1) + 1)
            run = run[~np.isin(run, closed[spaced])]
            ends.append(run)
            begins.append(self.past(run, SPACE))
        first, end = (np.sort(np.concatenate(each), kind="stable") for each in (begins, ends))
        return first, end

    def has(self, role: int, positions: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return whether the characters at some positions have a role, bool."""
        found: np.ndarray = (self.roles[positions] & role) != 0
        return found

    def past(self, positions: np.ndarray, role: int, step: int = 1) -> np.ndarray:
        """Return the first positions without a role, from some on, or back with `step` -1."""
        positions = positions.copy()
        inside = np.flatnonzero(self.has(role, positions))
        for _ in range(STEPS):
            positions[inside] += step
            inside = inside[self.has(role, positions[inside])]
        if len(inside):
            edges = edges_of(self.has(role))
            behind = np.searchsorted(edges, positions[inside], side="right")
            positions[inside] = edges[behind] if step > 0 else edges[behind - 1] - 1
        return positions

    @functools.cached_property
    def utf8(self) -> tuple[bytes, np.ndarray | None]:
        """The whole in UTF-8, and where each character begins in it, None where all are bytes."""
        if self.ascii:
            return self.codes.tobytes(), None
        codes = self.codes
        width = np.searchsorted([0x80, 0x800, 0x10000], codes, side="right") + 1
        return self.text.encode(), np.cumsum(width) - width


def edges_of(inside: np.ndarray) -> np.ndarray:
    """Return where runs of what is not 0 begin and end, in turn; the first and last [C] are 0."""
    return np.flatnonzero(inside[1:] != inside[:-1]) + 1


def blocks(texts: pa.ChunkedArray) -> Iterator[tuple[np.ndarray, Joined]]:
    """Yield those of the texts [N] that are not empty, about CHARACTERS at a time, and their rows.

    Those of ASCII alone are by themselves, for they are looked through faster.
    """
    texts = texts.combine_chunks()
    length = np.asarray(pc.fill_null(pc.binary_length(texts), 0))
    plain = np.asarray(pc.fill_null(pc.string_is_ascii(texts), False))
    for kind in (plain, ~plain):
        rows = np.flatnonzero(kind & (length > 0))
        number = np.cumsum(length[rows]) // CHARACTERS
        for some in np.split(rows, np.flatnonzero(np.diff(number)) + 1):
            if len(some):
                yield some, Joined.of(texts.take(pa.array(some)))


class Vocabulary:
    """Some words [V], in lower case, that are looked for in texts."""

    def __init__(self, words: Sequence[str]) -> None:
        self.numbers = {word: number for number, word in enumerate(words)}
        coded = [word.encode() for word in words]
        data = b"".join(word[:EIGHT].ljust(EIGHT, b"\0") for word in coded)
        length = np.array([len(word) for word in coded], np.int64)
        hashes = _hash(np.frombuffer(data, "<u8"), length)
        # Of long words with the same hash any one, for these are looked up as they are.
        known, chosen = np.unique(hashes, return_index=True)
        bounds = np.searchsorted(_slot(known), np.arange((1 << SLOT_BITS) + 1))
        self._first, in_slot = bounds[:-1], np.diff(bounds)
        self._used, self._most = in_slot > 0, int(in_slot.max())
        # One more, which is no word, is behind the last.
        self._hashes, self._number = np.append(known, np.uint64(0)), np.append(chosen, -1)
        self._length = np.append(length[chosen], -1)

    def among(
        self, texts: Joined, first: np.ndarray, end: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return which pieces of texts are such words, ascending, and their numbers: int64 [M].

        first, end: where the pieces begin and end, int64 [W].
        """
        data, place = texts.lower.utf8
        if place is not None:
            first, end = place[first], place[end]
        length = end - first
        hashes = _hash(_eight(data, first) & _MASKS[np.minimum(length, EIGHT)], length)
        slot = _slot(hashes)
        where = np.flatnonzero(self._used[slot])
        hashes, length = hashes[where], length[where]
        at = self._first[slot[where]]
        for _ in range(self._most - 1):
            at += self._hashes[at] < hashes
        same = (self._hashes[at] == hashes) & (self._length[at] == length)
        number = np.where(same, self._number[at], -1)
        for long in np.flatnonzero(same & (length > EIGHT)).tolist():
            word = data[first[where[long]] : end[where[long]]].decode()
            number[long] = self.numbers.get(word, -1)
        known = number >= 0
        return where[known], number[known]


def _eight(data: bytes, positions: np.ndarray) -> np.ndarray:
    """The eight bytes from each place on as a number, uint64, the first byte the lowest."""
    numbers = np.frombuffer(data + bytes(2 * EIGHT - len(data) % EIGHT), "<u8")
    at, bits = positions >> 3, ((positions & 7) << 3).astype(np.uint64)
    high = numbers[at + 1] << np.uint64(1) << (np.uint64(63) - bits)
    found: np.ndarray = high | (numbers[at] >> bits)
    return found


def _hash(eight: np.ndarray, length: np.ndarray) -> np.ndarray:
    """A hash of the first eight bytes and the length of words, uint64 [W].

    Words of one length, which are not longer, have the same hash only if they are the same.
    """
    found: np.ndarray = eight * _OF_BYTES + length.astype(np.uint64) * _OF_LENGTH
    return found


def _slot(hashes: np.ndarray) -> np.ndarray:
    slot: np.ndarray = (hashes >> np.uint64(64 - SLOT_BITS)).view(np.int64)  # no copy, as an index
    return slot
