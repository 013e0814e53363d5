"""The vocabulary against SentencePiece itself, on whole strings."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import pickle
import re

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p5jax.core.errors import UserError
from p5jax.text.vocabulary import Vocabulary

ID_TOKENS = ("<c0_3>", "<c0_4>", "<c1_12>", "<i0_123>")
WORDS = ["the", "cat", "sat", "on", "a", "mat", "with", "user_12", "and", "item_345", ",", "best"]
WORDS += ["of", "1000", "good", "things", "->", "yes"]
CORPUS = [
    " ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 9)) + f" {i} ." for i in range(300)
]

# Whatever can trouble a word-by-word encoder: odd white space, composing and full-width characters,
# ligatures that normalise to several letters, zero-width and control characters, emoji, the mark.
ODD = [
    *" \t\n\r\x0b\x0c\x00\x7f\x85\xa0\u2003\u2028\u202e\u3000",
    *"\u200b\u200d\ufeff\u2581\u0300\u0308\u00a8",
]
ODD += [
    "é",
    "e\u0301",
    "Å",
    "ﬁ",
    "①",
    "Ａ",
    "～",
    "，",
    "ｶﾞ",
    "中",
    "한",
    "각",
    "😀",
    "👨‍👩‍👧",
    "ß",
    "İ",
]
ODD += ["…", "™", "``", "''", "<", "{", "~", "1/2", "½"]
PIECES = st.sampled_from(["  ", " ", *ODD, *WORDS, "12345", "aaaa", "!!!!", "Zzyzx", "_", "-"])
TEXT = st.one_of(
    st.text(max_size=40),
    st.text(alphabet=st.characters(max_codepoint=127), max_size=60),
    st.lists(PIECES, max_size=30).map("".join),
    st.lists(st.sampled_from([*WORDS, "777777", "aaaaaaa", "......"]), max_size=300).map(" ".join),
)


@functools.cache
def trained() -> Vocabulary:
    return Vocabulary.train(CORPUS, 400, ID_TOKENS)


@functools.cache
def trained_processor():
    return sentencepiece.SentencePieceProcessor(model_proto=model_bytes(trained()))


def model_bytes(vocabulary: Vocabulary) -> bytes:
    return vocabulary.__reduce__()[1][0]


@functools.cache
def t5(path) -> tuple[Vocabulary, sentencepiece.SentencePieceProcessor]:
    vocabulary = Vocabulary.from_model(path, ID_TOKENS)
    return vocabulary, sentencepiece.SentencePieceProcessor(model_file=str(path))


@pytest.fixture(scope="session")
def t5_path(shared):
    return shared / "vocab" / "t5_cc_all.32000.model"


def oracle(processor, vocabulary, text: str) -> list[int]:
    """Cut at the id tokens with a regex, encode each stretch whole."""
    first = processor.get_piece_size() + 100
    known = "|".join(map(re.escape, vocabulary.id_tokens))
    ids: list[int] = []
    for part in re.split(f"({known})", text):
        if part in vocabulary.id_tokens:
            ids.append(first + vocabulary.id_tokens.index(part))
        else:
            ids += processor.encode(part)
    return ids


@settings(max_examples=400, deadline=None)
@given(TEXT)
@example("")
@example("   ")
@example("a" * 70)
@example(" ".join(["1111111"] * 400))
def test_encode_equals_sentencepiece(text):
    assert trained().encode(text) == trained_processor().encode(text)
    assert trained().encode(text) == trained_processor().encode(text)  # now from the cache


@settings(max_examples=400, deadline=None)
@given(text=TEXT)
def test_encode_equals_sentencepiece_with_t5(t5_path, text):
    vocabulary, processor = t5(t5_path)
    assert vocabulary.encode(text) == processor.encode(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(PIECES, st.sampled_from([*ID_TOKENS, "<c0_99>", "<c0_"])), max_size=20))
def test_id_tokens_cut_the_text(parts):
    text = "".join(parts)
    assert trained().encode(text) == oracle(trained_processor(), trained(), text)


def test_a_near_tie_late_in_a_long_text_is_decided_as_sentencepiece_decides_it():
    # Two segmentations with equal scores but for rounding: "aab" = aa + b or a + ab.
    model = tie_model()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocabulary = Vocabulary(model)
    texts = [" ".join(["pq"] * n + ["aab"] + ["bbaab"] * 3) for n in range(400)]
    whole = [processor.encode(text) for text in texts]
    alone = {tuple(ids[-9:]) for ids in whole}
    assert len(alone) > 1, "the oracle never wavers, so this test shows nothing"
    assert [vocabulary.encode(text) for text in texts] == whole


def tie_model() -> bytes:
    """A unigram model whose scores make segmentations tie to within float32 rounding."""
    from sentencepiece import sentencepiece_model_pb2 as pb

    model = pb.ModelProto()
    model.ParseFromString(model_bytes(trained()))
    scores = {"\u2581": -2.1, "a": -3.1, "b": -3.3, "aa": -4.7, "ab": -4.9, "p": -3.7, "q": -3.9}
    del model.pieces[3:]
    for piece, score in scores.items():
        model.pieces.add(piece=piece, score=score)
    return model.SerializeToString()


def test_t5_layout(t5_path):
    vocabulary, _ = t5(t5_path)
    assert vocabulary.size == 32100 + len(ID_TOKENS)
    assert vocabulary.padded_size == 32128
    assert vocabulary.piece(32099) == "<extra_id_0>"
    assert vocabulary.piece(32000) == "<extra_id_99>"
    assert vocabulary.piece(32100) == "<c0_3>"
    assert [vocabulary.piece(i) for i in range(3)] == ["<pad>", "</s>", "<unk>"]
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)
    with pytest.raises(IndexError):
        vocabulary.piece(vocabulary.size)
    assert Vocabulary.from_model(t5_path).padded_size == 32128


def test_t5_agrees_with_hugging_face_on_ids(t5_path):
    # Known to the T5 papers' users: the ids of this sentence in every released T5.
    assert t5(t5_path)[0].encode("translate English to German: Hello") == [
        13959, 1566, 12, 2968, 10, 8774,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "item_<c0_3><c1_12> is good",
        "user_12 : <c0_3><c1_12> , <c0_4><c1_12>",
        "<i0_123>",
        "4.2 , the cat sat",
        "<c0_3><c1_12> -> <c0_4><c1_12>",
        "item_345 item_<i0_123>",
    ],
)
def test_decode_inverts(text):
    assert trained().decode(trained().encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*WORDS, "Qx9", "<c0_4><c1_12>", "item_<c0_3>"]), max_size=12))
def test_decode_inverts_words(words):
    text = " ".join(words)
    assert trained().decode(trained().encode(text)) == text


def test_decode_drops_specials_and_stops_at_the_end():
    vocabulary = trained()
    ids = vocabulary.encode("the cat <c0_3>")
    noisy = [0, 2, *ids, vocabulary.num_pieces + 5, vocabulary.size + 1, 1, *ids]
    assert vocabulary.decode(noisy) == "the cat <c0_3>"
    assert vocabulary.decode([]) == ""


def test_word_starts():
    vocabulary, processor = trained(), trained_processor()
    starts = vocabulary.word_starts
    assert starts.shape == (vocabulary.padded_size,)
    assert starts.dtype == bool
    pieces = processor.get_piece_size()
    expected = {i for i in range(pieces) if processor.id_to_piece(i)[0] == "\u2581"}
    expected |= {pieces + 100 + ID_TOKENS.index(t) for t in ("<c0_3>", "<c0_4>", "<i0_123>")}
    assert set(starts.nonzero()[0]) == expected
    counts = [int(starts[vocabulary.encode(w)].sum()) for w in ("user_12", "item_345", "the")]
    assert counts == [1, 1, 1]


def test_trigger_tokens(t5_path):
    vocabulary, processor = t5(t5_path)
    allowed = vocabulary.trigger_tokens
    assert allowed.shape == (32128,)
    for word in ("good", "recommend", "the"):
        (token,) = processor.encode(word)
        assert allowed[token]
    for text in ("12", ".", "7", "_"):
        assert not allowed[processor.encode(text)].any()
    assert not allowed[:3].any()
    assert not allowed[32000:].any()
    for token in allowed.nonzero()[0][::500]:
        assert vocabulary.encode(vocabulary.decode([token])) == [token]


def test_training_is_deterministic_and_covers_ascii():
    again = Vocabulary.train(iter(CORPUS), 400, ID_TOKENS)
    assert again.fingerprint == trained().fingerprint
    ascii_text = " ".join(map(chr, range(33, 127)))
    assert trained().unk_id not in trained().encode(ascii_text)
    assert trained().num_pieces <= 400


def test_training_leaves_id_tokens_out():
    corpus = [f"{text} item_<c0_{i}><c1_{i}>" for i, text in enumerate(CORPUS)]
    vocabulary = Vocabulary.train(corpus, 400)
    pieces = {vocabulary.piece(i) for i in range(vocabulary.num_pieces)}
    assert not any("c0" in piece or "c1" in piece for piece in pieces)


def test_training_without_text_is_refused():
    with pytest.raises(UserError, match="no text"):
        Vocabulary.train(["", "  ", "<c0_1>"], 400)
    with pytest.raises(UserError, match="3 pieces"):
        Vocabulary.train(CORPUS, 3)


def test_fingerprint_tells_models_and_id_tokens_apart():
    model = model_bytes(trained())
    found = {Vocabulary(model, tokens).fingerprint for tokens in ((), ID_TOKENS, ID_TOKENS[::-1])}
    found.add(Vocabulary.train(CORPUS[:150], 400).fingerprint)
    assert len(found) == 4
    assert all(len(f) == len(hashlib.sha256().hexdigest()) for f in found)


def test_save_and_load(tmp_path):
    folder = tmp_path / "run" / "vocabulary"
    trained().save(folder)
    trained().save(folder)  # again, over itself
    loaded = Vocabulary.load(folder)
    assert loaded.fingerprint == trained().fingerprint
    assert loaded.encode("item_<c0_3> the cat") == trained().encode("item_<c0_3> the cat")
    assert [path.name for path in folder.parent.iterdir()] == ["vocabulary"]
    assert pickle.loads(pickle.dumps(loaded)).fingerprint == loaded.fingerprint


def test_load_refuses_what_does_not_match(tmp_path):
    with pytest.raises(UserError, match="absent: not a vocabulary"):
        Vocabulary.load(tmp_path / "absent")
    trained().save(tmp_path / "v")
    manifest = tmp_path / "v" / "vocabulary.json"
    good = manifest.read_text()
    for bad, match in (
        (good.replace("<c0_3>", "<c0_7>"), "fingerprint"),
        (json.dumps(json.loads(good) | {"format": 99}), "format 99"),
        ("{", "vocabulary.json: found Expecting property name"),
        ("[]", "vocabulary.json: found \\[\\], expected what p5jax data"),
        ('{"format": 1}', "found no fingerprint"),
    ):
        manifest.write_text(bad)
        with pytest.raises(UserError, match=match):
            Vocabulary.load(tmp_path / "v")
    manifest.write_text(good)
    (tmp_path / "v" / "sentencepiece.model").write_bytes(b"junk")
    with pytest.raises(UserError, match="SentencePiece model"):
        Vocabulary.load(tmp_path / "v")
    (tmp_path / "v" / "sentencepiece.model").unlink()
    with pytest.raises(UserError, match="No such file"):
        Vocabulary.load(tmp_path / "v")


def test_save_keeps_off_other_folders(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="expected a vocabulary or no folder"):
        trained().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_models_with_other_special_ids_are_refused(tmp_path):
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=writer,
        vocab_size=100,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    path = tmp_path / "other.model"
    path.write_bytes(writer.getvalue())
    with pytest.raises(UserError, match="expected \\(0, 1, 2\\)"):
        Vocabulary.from_model(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"other\.model"):
        Vocabulary.from_model(path)


def test_a_model_that_is_not_unigram_is_encoded_whole():
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=writer, vocab_size=120, model_type="bpe",
        hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_proto=writer.getvalue())
    for text in (*CORPUS[:5], "odd  spaces\u3000 é"):
        assert Vocabulary(writer.getvalue()).encode(text) == processor.encode(text)


@pytest.mark.parametrize("tokens", [("c0_1",), ("<c0_1>", "<c0_1>"), ("<C0_1>",)])
def test_bad_id_tokens_are_refused(tokens):
    with pytest.raises(UserError, match="id token"):
        Vocabulary(model_bytes(trained()), tokens)


def test_lone_surrogates_are_encoded_as_replacement_characters():
    assert trained().encode("the \ud800 cat") == trained().encode("the \ufffd cat")
