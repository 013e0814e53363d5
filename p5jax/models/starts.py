"""A start from counts: the first embeddings of id tokens and of words are made from vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from flax.traverse_util import flatten_dict, unflatten_dict

from p5jax.core.errors import UserError
from p5jax.core.settings import check
from p5jax.models.checkpoints.vocabulary_rows import EMBEDDING_PATH
from p5jax.models.initial import Params
from p5jax.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class StartConfig:
    """What a model starts from, beside random numbers or a checkpoint.

    item_vectors: the embeddings of id tokens start from the vectors of their items, counted from
    training interactions and item texts, or those that the dataset was given. word_vectors: the
    embeddings of pieces start from vectors counted in the texts of training reviews and in titles.
    """

    item_vectors: bool = False
    word_vectors: bool = False

    def __post_init__(self) -> None:
        check(self)


def with_item_vectors(
    params: Params,
    vocabulary: Vocabulary,
    item_ids: Sequence[str],
    vectors: np.ndarray,
    seed: int,
) -> Params:
    """Return parameters in which the rows of id tokens start from item vectors [I, W].

    A token's vector is the mean of those of the items whose ids have it, less the mean of its
    level's tokens, which tells none of them apart. Vectors are brought to the model's width (their
    leading directions, turned at random so that no number of an embedding holds most), and each
    level to the standard deviation of the embedding as it is. No other row changes, nor that of a
    token without a known item. UserError when the ids are numbers or no item is known.
    """
    if not vocabulary.id_tokens:
        raise UserError(
            "StartConfig.item_vectors: found item ids that are numbers, expected ids of tokens"
            " (token, semantic or collaborative)"
        )
    means = token_means(vocabulary, item_ids, vectors)
    known: np.ndarray = np.abs(means).sum(axis=1) > 0
    if not known.any():
        raise UserError("StartConfig.item_vectors: found no item with a vector, expected some")
    level = np.array([token.partition("_")[0] for token in vocabulary.id_tokens])
    levels = [np.flatnonzero(known & (level == each)) for each in np.unique(level[known])]
    return _started(params, vocabulary.first_id_token + np.arange(len(means)), means, levels, seed)


def with_word_vectors(params: Params, vectors: np.ndarray, seed: int) -> Params:
    """Return parameters in which the rows of pieces start from word vectors [pieces, W].

    Vectors are brought to length one, less their mean, and then to the model's width and the
    embedding's standard deviation as those of items are. The row of a piece without a vector, one
    of zeros, does not change. UserError when no piece has one.
    """
    known = np.flatnonzero(np.abs(vectors).sum(axis=1) > 0)
    if not len(known):
        raise UserError(
            "StartConfig.word_vectors: found no two words near each other in training reviews and"
            " titles, expected some"
        )
    units = vectors[known] / np.linalg.norm(vectors[known], axis=1, keepdims=True)
    return _started(params, known, units, [np.arange(len(known))], seed)


def _started(
    params: Params,
    rows: np.ndarray,
    vectors: np.ndarray,
    groups: Sequence[np.ndarray],
    seed: int,
) -> Params:
    """Return parameters in which rows [N] of the embedding start from vectors [N, W].

    groups: which of the rows, the others staying as they are; those of a group lose their mean and
    get the embedding's standard deviation.
    """
    flat = flatten_dict(params)
    embedding = np.array(flat[EMBEDDING_PATH], np.float32)
    deviation, vectors = embedding.std(), vectors.copy()
    for group in groups:
        vectors[group] -= vectors[group].mean(axis=0)
    starts = turned(vectors, embedding.shape[1], seed)
    for group in groups:
        scale = deviation / max(starts[group].std(), 1e-9)
        embedding[rows[group]] = starts[group] * scale
    return dict(unflatten_dict(flat | {EMBEDDING_PATH: embedding}))


def token_means(vocabulary: Vocabulary, item_ids: Sequence[str], vectors: np.ndarray) -> np.ndarray:
    """Return the mean vector of the items that have each id token, [N, W].

    Items without a vector, whose row is zeros, do not count.
    """
    tokens = [vocabulary.encode(text) for text in item_ids]
    items = np.repeat(np.arange(len(tokens)), [len(ids) for ids in tokens])
    first = vocabulary.first_id_token
    known = (np.abs(vectors).sum(axis=1) > 0)[items]
    shape = (len(vocabulary.id_tokens), len(tokens))
    where = (np.concatenate(tokens) - first)[known], items[known]
    has = sp.csr_array((np.ones(known.sum()), where), shape=shape)
    counts = np.asarray(has.sum(axis=1)).reshape(-1, 1)
    means: np.ndarray = has @ vectors / np.maximum(counts, 1)
    return means


def turned(vectors: np.ndarray, width: int, seed: int) -> np.ndarray:
    """Bring vectors [N, W] to `width` numbers: their leading directions under a random rotation."""
    import scipy.linalg  # noqa: F401  (before the limit, which holds for what is loaded)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # the same sums whatever the number of cores
        _, axes = np.linalg.eigh(vectors.T @ vectors)
        axes = axes[:, ::-1][:, :width]
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
        rng = np.random.default_rng(seed)
        rotation, upper = np.linalg.qr(rng.standard_normal((width, width)))
        rotation = rotation * np.sign(np.diag(upper))
        turned: np.ndarray = vectors @ axes @ rotation[: axes.shape[1]]
    return turned
