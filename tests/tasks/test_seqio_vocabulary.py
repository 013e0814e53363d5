"""The adaptor of the vocabulary to SeqIO gives the same ids and texts."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p5jax.text.vocabulary import Vocabulary

pytestmark = pytest.mark.extras
seqio = pytest.importorskip("seqio", reason="needs seqio (make test-extras)")
import tensorflow as tf  # noqa: E402

from p5jax.tasks.vocabulary import SeqioVocabulary  # noqa: E402

ODD = [*" \t\n\x00\xa0\u200b\ufeff", "é", "e\u0301", "中", "😀", "ﬁ", "<", "<i0_", "<i0_3>", "~"]
TEXT = st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from([*ODD, "<c0_1><c1_2>", "the", "item_12"]), max_size=12).map("".join),
)


@pytest.fixture(scope="module")
def adaptor(vocabulary_folder):
    model = vocabulary_folder / "sentencepiece.model"
    return SeqioVocabulary(Vocabulary.from_model(model, ("<c0_1>", "<c1_2>", "<i0_3>")))


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_the_adaptor_gives_the_vocabularys_ids_and_texts(adaptor, text):
    plain = adaptor.vocabulary
    ids = plain.encode(text)
    assert list(adaptor.encode(text)) == ids
    assert adaptor.encode_tf(tf.constant(text.encode("utf-8", "replace"))).numpy().tolist() == (
        plain.encode(text.encode("utf-8", "replace").decode())
    )
    assert adaptor.decode(ids) == plain.decode(ids)
    noisy = [*ids, 1, 5, 6, plain.padded_size + 3]
    assert adaptor.decode(noisy) == plain.decode(ids)
    rows = tf.constant([noisy, [0] * len(noisy)], tf.int32)
    assert adaptor.decode_tf(rows).numpy().tolist() == [plain.decode(ids).encode(), b""]


def test_strings_of_any_shape(adaptor):
    """A vector gives ragged rows, a matrix ragged rows of rows; decoding gives the strings back."""
    texts = ["<c0_1><c1_2>", "", "the item", "the"]
    ids = [adaptor.vocabulary.encode(text) for text in texts]
    vector = adaptor.encode_tf(tf.constant(texts))
    assert vector.to_list() == ids
    assert adaptor.decode_tf(vector).numpy().tolist() == [text.encode() for text in texts]
    matrix = tf.constant([texts[:2], texts[2:]])
    assert adaptor.encode_tf(matrix).to_list() == [ids[:2], ids[2:]]
    inside = tf.data.Dataset.from_tensors(matrix).map(adaptor.encode_tf)
    assert next(iter(inside)).to_list() == [ids[:2], ids[2:]]
    assert adaptor.encode_tf(tf.constant([], tf.string)).to_list() == []
    unknown = tf.TensorSpec(None, tf.string)  # as tf.numpy_function gives it
    scalar = tf.function(adaptor.encode_tf, input_signature=[unknown])(tf.constant(texts[0]))
    assert scalar.numpy().tolist() == ids[0]


def test_the_adaptors_sizes_and_equality(adaptor, world_vocabulary):
    plain = adaptor.vocabulary
    assert (adaptor.pad_id, adaptor.eos_id, adaptor.unk_id, adaptor.bos_id) == (0, 1, 2, None)
    assert adaptor.vocab_size == plain.padded_size == len(plain.word_starts)
    copy = pickle.loads(pickle.dumps(adaptor))
    assert copy == adaptor
    assert copy is not adaptor
    assert hash(copy) == hash(adaptor)
    assert SeqioVocabulary(world_vocabulary) != adaptor  # the same pieces, other id tokens
    assert adaptor != seqio.ByteVocabulary()
    assert adaptor.encode("") == []
    assert adaptor.decode_tf(tf.constant([0, 1, 7], tf.int32)).numpy() == b""
    assert adaptor.encode_tf(tf.constant("<c0_1><c1_2>")).numpy().tolist() == [
        plain.num_pieces + 100,
        plain.num_pieces + 101,
    ]
