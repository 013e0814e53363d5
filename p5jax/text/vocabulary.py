"""The vocabulary: SentencePiece pieces, then 100 sentinels, then the tokens that item ids use."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import sentencepiece

from p5jax.core.errors import UserError
from p5jax.core.files import replaced_folder
from p5jax.core.folder import OutputFolder
from p5jax.core.kinds import Checksum, Count
from p5jax.data.item_ids import ID_TOKEN

NUM_SENTINELS = 100
WORD_MARK = "\u2581"  # SentencePiece's word-boundary mark
MODEL_FILE = "sentencepiece.model"


class _Manifest(TypedDict):
    fingerprint: Checksum
    pieces: Count
    id_tokens: list[str]


VOCABULARY_FOLDER = OutputFolder(
    *("vocabulary", "vocabulary.json", 1, "p5jax data vocabulary", "format"), contents=_Manifest
)

_PRINTABLE = "".join(map(chr, range(33, 127)))
_PLAIN_WORD = re.compile(r"[!-~]{1,64}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CACHE_WORDS = 1 << 18
_TRAINING_TEXTS = 200_000
_TRAINER_THREADS = 2  # fixed: the trainer's sums, and so its pieces, depend on it

# What encode() knows about a word: its ids, the magnitude of its score, and how large the running
# score of a text may be for the word's own segmentation to be the one chosen inside that text.
_Word = tuple[tuple[int, ...], float, float]


class Vocabulary:
    """SentencePiece pieces, the sentinels <extra_id_99> ... <extra_id_0>, then the id tokens.

    A text is encoded as SentencePiece encodes it, except that each id token becomes its own id and
    the stretches of text between id tokens are encoded as strings of their own.
    """

    pad_id = 0
    eos_id = 1
    unk_id = 2

    def __init__(self, model: bytes, id_tokens: Sequence[str] = (), *, source: str = "the model"):
        self.id_tokens: tuple[str, ...] = tuple(id_tokens)
        for token in self.id_tokens:
            if not ID_TOKEN.fullmatch(token):
                raise UserError(f"id token: found {token!r}, expected a form like '<c0_12>'")
        if len(set(self.id_tokens)) != len(self.id_tokens):
            raise UserError("id tokens: found a token twice, expected distinct tokens")
        self.model = model
        self._pieces = _load_model(model, source)
        self.num_pieces: int = self._pieces.get_piece_size()
        self.first_id_token: int = self.num_pieces + NUM_SENTINELS
        self.size: int = self.first_id_token + len(self.id_tokens)
        self.padded_size: int = -(-self.size // 128) * 128
        self._id_of_token = {t: self.first_id_token + n for n, t in enumerate(self.id_tokens)}
        self._piece_list: list[str] = [self._pieces.id_to_piece(i) for i in range(self.num_pieces)]
        self._scores = [self._pieces.get_score(i) for i in range(self.num_pieces)]
        self._wordwise = self._encodes_word_by_word()
        self._cache: dict[str, _Word] = {}
        self.fingerprint = hashlib.sha256("\n".join(["", *id_tokens]).encode() + model).hexdigest()

    @classmethod
    def from_model(cls, path: str | os.PathLike[str], id_tokens: Sequence[str] = ()) -> Vocabulary:
        """Read a SentencePiece model with pad 0, eos 1 and unk 2, such as T5's."""
        try:
            model = Path(path).read_bytes()
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{path}: {reason}; expected a SentencePiece model") from None
        return cls(model, id_tokens, source=str(path))

    @classmethod
    def train(
        cls, texts: Iterable[str], size: int, id_tokens: Sequence[str] = (), seed: int = 0
    ) -> Vocabulary:
        """Train a unigram model of at most `size` pieces on `texts`; the same texts and seed give
        the same model. A corpus beyond 200,000 texts is sampled uniformly with `seed`."""
        corpus = [ID_TOKEN.sub(" ", _utf8(text)) for text in _sample(texts, _TRAINING_TEXTS, seed)]
        if not any(text.strip() for text in corpus):
            raise UserError("vocabulary: found no text to train on, expected at least one word")
        writer = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(corpus),
                model_writer=writer,
                model_type="unigram",
                vocab_size=size,
                hard_vocab_limit=False,
                character_coverage=0.9998,
                required_chars=_PRINTABLE,  # so that no ASCII text has an unknown piece
                split_digits=False,
                max_sentence_length=1 << 16,
                pad_id=cls.pad_id,
                eos_id=cls.eos_id,
                unk_id=cls.unk_id,
                bos_id=-1,
                num_threads=_TRAINER_THREADS,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise UserError(f"vocabulary: {size} pieces could not be trained: {error}") from None
        return cls(writer.getvalue(), id_tokens)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the vocabulary beside `folder`, then rename it to `folder`."""
        folder = Path(folder)
        if folder.exists() and not (folder / VOCABULARY_FOLDER.manifest).exists():
            raise UserError(f"{folder}: exists, expected a vocabulary or no folder")
        with replaced_folder(folder) as new:
            (new / MODEL_FILE).write_bytes(self.model)
            manifest = {
                "fingerprint": self.fingerprint,
                "pieces": self.num_pieces,
                "id_tokens": list(self.id_tokens),
            }
            VOCABULARY_FOLDER.write(new, manifest)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Vocabulary:
        """Read what `save` wrote; UserError when it is absent, damaged or of another format."""
        path, manifest = Path(folder) / VOCABULARY_FOLDER.manifest, VOCABULARY_FOLDER.read(folder)
        fingerprint = manifest["fingerprint"]
        vocabulary = cls.from_model(Path(folder) / MODEL_FILE, manifest["id_tokens"])
        if vocabulary.fingerprint != fingerprint:
            raise UserError(
                f"{path}: found fingerprint {fingerprint[:12]}, expected"
                f" {vocabulary.fingerprint[:12]}, that of {MODEL_FILE} with its id tokens"
            )
        return vocabulary

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without an end-of-sequence id.

        Words come from a cache where that is guaranteed to give what SentencePiece gives for the
        whole string: plain ASCII words whose best segmentation leads the next best by more than
        float32 rounding can make up. Any other text goes to SentencePiece whole.
        """
        ids: list[int] = []
        total = 0.0
        cache = self._cache
        for word in text.split(" "):
            entry = cache.get(word)
            if entry is None:
                entry = self._remember(word)
            total += entry[1]
            if total > entry[2]:
                return self._encode_whole(text)
            ids += entry[0]
        return ids

    def __reduce__(self) -> tuple[type[Vocabulary], tuple[bytes, tuple[str, ...]]]:
        return Vocabulary, (self.model, self.id_tokens)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids` up to the first end-of-sequence, without special tokens.

        A first-level id token starts a word (joined to a preceding "_", as in "item_<c0_3>"); a
        deeper one continues the id. Ids outside the vocabulary are dropped.
        """
        text = ""
        run: list[int] = []
        for token in map(int, ids):
            if token == self.eos_id:
                break
            if self.unk_id < token < self.num_pieces:
                run.append(token)
            elif self.first_id_token <= token < self.size:
                text = self._append_run(text, run)
                run = []
                name = self.id_tokens[token - self.first_id_token]
                text += (" " if text and text[-1] not in " _" and _starts_word(name) else "") + name
        return self._append_run(text, run)

    def piece(self, token: int) -> str:
        """Return the written form of one id: a piece, a sentinel or an id token."""
        if not 0 <= token < self.size:
            raise IndexError(f"token {token} is outside the vocabulary of {self.size}")
        if token < self.num_pieces:
            return self._piece_list[token]
        if token < self.first_id_token:
            return f"<extra_id_{self.first_id_token - 1 - token}>"
        return self.id_tokens[token - self.first_id_token]

    @cached_property
    def word_starts(self) -> np.ndarray:
        """Return which ids start a whole word: bool [padded_size]."""
        starts = np.zeros(self.padded_size, bool)
        starts[: self.num_pieces] = [piece.startswith(WORD_MARK) for piece in self._piece_list]
        starts[self.first_id_token : self.size] = [_starts_word(t) for t in self.id_tokens]
        starts.setflags(write=False)
        return starts

    @cached_property
    def trigger_tokens(self) -> np.ndarray:
        """Return which ids are a whole word of letters that its text gives back: bool
        [padded_size]; never specials, sentinels, id tokens, digits or punctuation."""
        allowed = np.zeros(self.padded_size, bool)
        for token, piece in enumerate(self._piece_list):
            if piece.startswith(WORD_MARK) and piece[1:].isalpha():
                allowed[token] = self._pieces.encode(piece[1:]) == [token]
        allowed.setflags(write=False)
        return allowed

    def _append_run(self, text: str, run: list[int]) -> str:
        """Return `text` followed by pieces, with the space that decoding a run alone drops."""
        if not run:
            return text
        space = " " if text and self._piece_list[run[0]].startswith(WORD_MARK) else ""
        return f"{text}{space}{self._pieces.decode(run)}"

    def _encodes_word_by_word(self) -> bool:
        """Return whether no piece and no normalisation of this model can cross a space."""
        crossing = any(WORD_MARK in piece[1:] or " " in piece for piece in self._piece_list)
        if crossing or self._pieces.piece_to_id(WORD_MARK) == self.unk_id:
            return False
        if self._pieces.normalize("  a  b ") != f"{WORD_MARK}a{WORD_MARK}b":
            return False
        try:
            self._pieces.nbest_encode("a", nbest_size=2, out_type=int)
        except RuntimeError:  # not a unigram model: its ties cannot be measured
            return False
        return True

    def _remember(self, word: str) -> _Word:
        """Return what encode() needs to know about a word, and cache it.

        A word's parts are its id tokens and the text between them.
        """
        parts = [
            ((part,), 0.0, math.inf) if isinstance(part, int) else self._examine(part)
            for part in self._split(word)
        ]
        ids = tuple(token for part in parts for token in part[0])
        entry = ids, sum(part[1] for part in parts), min(part[2] for part in parts)
        if len(self._cache) >= _CACHE_WORDS:
            self._cache.clear()
        self._cache[word] = entry
        return entry

    def _examine(self, word: str) -> _Word:
        """Bound the running score up to which SentencePiece segments `word` the same in any text.

        SentencePiece adds piece scores from the start of the text in float32. While the sum is
        below M, each of at most n additions within a word of n characters is off by at most
        M * 2^-24, so a lead above 2 (n + 1) M 2^-24 over the second-best segmentation decides.
        """
        unsafe: _Word = ((), 0.0, -1.0)
        if not word:
            return (), 0.0, math.inf
        plain = self._wordwise and _PLAIN_WORD.fullmatch(word)
        if not plain or self._pieces.normalize(word) != WORD_MARK + word:
            return unsafe
        ids = self._pieces.encode(word)
        best, *others = self._pieces.nbest_encode(word, nbest_size=2, out_type=int)
        if best != ids or self.unk_id in ids:
            return unsafe
        score = sum(self._scores[token] for token in ids)
        second = sum(self._scores[token] for token in others[0]) if others else -math.inf
        return tuple(ids), -score, (score - second) * 2.0**24 / (2 * (len(word) + 2))

    def _encode_whole(self, text: str) -> list[int]:
        """Encode a text stretch by stretch, each with one call of SentencePiece."""
        parts = self._split(text)
        encoded = ([p] if isinstance(p, int) else self._pieces.encode(_utf8(p)) for p in parts)
        return [token for ids in encoded for token in ids]

    def _split(self, text: str) -> list[str | int]:
        """Cut a text into the ids of its id tokens and the strings between them."""
        parts: list[str | int] = []
        start = 0
        if self.id_tokens and "<" in text:
            for match in ID_TOKEN.finditer(text):
                token = self._id_of_token.get(match.group())
                if token is not None:
                    parts += [text[start : match.start()], token]
                    start = match.end()
        parts.append(text[start:])
        return parts


def _load_model(model: bytes, source: str) -> Any:
    """Parse a SentencePiece model and check its special ids."""
    expected = (Vocabulary.pad_id, Vocabulary.eos_id, Vocabulary.unk_id)
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        found = (pieces.pad_id(), pieces.eos_id(), pieces.unk_id()) if model else None
    except RuntimeError:
        found = None
    if found is None:
        raise UserError(f"{source}: found other bytes, expected a SentencePiece model")
    if found != expected:
        reason = f"found pad, eos, unk ids {found}, expected {expected} as in T5's model"
        raise UserError(f"{source}: {reason}")
    return pieces


def _sample(texts: Iterable[str], limit: int, seed: int) -> list[str]:
    """Sample at most `limit` texts uniformly, in one pass (Vitter 1985, algorithm R)."""
    rng = np.random.default_rng(seed)
    kept: list[str] = []
    for seen, text in enumerate(texts):
        if seen < limit:
            kept.append(text)
            continue
        slot = int(rng.integers(seen + 1))
        if slot < limit:
            kept[slot] = text
    return kept


def _starts_word(id_token: str) -> bool:
    """Return whether an id token is of level 0, the first of its id."""
    return id_token[2:].startswith("0_")


def _utf8(text: str) -> str:
    """Replace lone surrogates, which JSON can hold and UTF-8 cannot."""
    return _SURROGATE.sub("\ufffd", text)
