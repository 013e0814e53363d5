"""The adaptor of p5jax's vocabulary to SeqIO's interface."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import seqio
import tensorflow as tf

from p5jax.tasks.calls import numpy_function
from p5jax.text.vocabulary import Vocabulary


class SeqioVocabulary(seqio.Vocabulary):
    """A p5jax vocabulary for SeqIO and t5x: the same ids, item-id tokens included.

    `vocab_size` is the padded size, the rows of a model's embedding table. Two of equal fingerprint
    are equal, as t5x asks of a task's and a model's. encode_tf takes strings [...] and gives ids
    [..., L], ragged unless of a scalar; decode_tf takes ids [..., L], ragged or not, and gives
    strings [...].
    """

    def __init__(self, vocabulary: Vocabulary):
        super().__init__()
        self.vocabulary = vocabulary

    @property
    def bos_id(self) -> None:
        return None  # T5's decoder starts from the padding id

    @property
    def eos_id(self) -> int:
        return self.vocabulary.eos_id

    @property
    def unk_id(self) -> int:
        return self.vocabulary.unk_id

    @property
    def _base_vocab_size(self) -> int:
        return self.vocabulary.padded_size

    def _encode(self, s: str) -> list[int]:
        return self.vocabulary.encode(s)

    def _decode(self, ids: Iterable[int]) -> str:
        return self.vocabulary.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor | tf.RaggedTensor:
        def encode(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            rows = [self.vocabulary.encode(text.decode("utf-8", "replace")) for text in texts]
            lengths = np.array([len(row) for row in rows], np.int64)
            return np.array([id for row in rows for id in row], np.int32), lengths

        s = tf.convert_to_tensor(s)
        ids, lengths = numpy_function(encode, [tf.reshape(s, [-1])], [tf.int32, tf.int64])
        ids.set_shape([None])
        if not s.shape.rank:  # a scalar, also where its shape is not known
            return ids
        lengths.set_shape([None])
        ragged = tf.RaggedTensor.from_row_lengths(ids, lengths)
        shape = tf.shape(s, tf.int64)
        for axis in reversed(range(1, s.shape.rank)):
            rows = tf.reduce_prod(shape[:axis])
            ragged = tf.RaggedTensor.from_uniform_row_length(ragged, shape[axis], nrows=rows)
        return ragged

    def decode_tf(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        if isinstance(ids, tf.RaggedTensor):
            ids = ids.to_tensor(self.pad_id)
        return super().decode_tf(ids)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(rows: np.ndarray) -> np.ndarray:
            texts = [self.vocabulary.decode(row).encode() for row in rows.tolist()]
            return np.array(texts, object)

        shape = tf.shape(ids)
        flat = tf.reshape(ids, [tf.reduce_prod(shape[:-1]), shape[-1]])
        (texts,) = numpy_function(decode, [flat], [tf.string])
        texts = tf.reshape(texts, shape[:-1])
        texts.set_shape(ids.shape[:-1])
        return texts

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SeqioVocabulary):
            return NotImplemented
        return self.vocabulary.fingerprint == other.vocabulary.fingerprint

    def __hash__(self) -> int:
        return hash(self.vocabulary.fingerprint)

    def __str__(self) -> str:
        return f"SeqioVocabulary({self.vocabulary.size} ids, {self.vocabulary.fingerprint[:12]})"
