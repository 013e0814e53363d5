"""The softmax over the tokens that continue an item id, against a plain walk over the ids."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import padded, small_model

from p5jax.core.errors import UserError
from p5jax.inference.ranking import rank, score_all
from p5jax.inference.trie import Trie
from p5jax.models.t5 import Transformer, init_params
from p5jax.text.vocabulary import Vocabulary
from p5jax.training.children import Children, children_of
from p5jax.training.objective import batch_sums, token_loss
from p5jax.triggers.gradients import example_nll

V, EOS, COMMA = 64, 1, 9


def catalogue_of(rng, count):
    """Ids of one to four tokens, none the beginning of another: 20 ... 29 are of level 0, 30 ... 39
    of level 1, and so on."""
    found = set()
    while len(found) < count:
        codes = rng.integers(0, 4, rng.integers(1, 5)).tolist()
        id = tuple(20 + 10 * level + code for level, code in enumerate(codes))
        clash = any(id[: len(other)] == other[: len(id)] for other in found)
        if not clash:
            found.add(id)
    return sorted(found)


def listed(some, ended):
    """A target that lists ids."""
    return [token for id in some for token in (*id, *([COMMA] if ended else []))] + [EOS]


def followers(catalogue, targets):
    """What each token of a row of targets is one of, by walking along it."""
    found, prefix = [], ()
    for token in targets:
        nexts = {id[len(prefix)] for id in catalogue if id[: len(prefix)] == prefix != id}
        found.append(nexts if token in nexts else set(range(V)))
        prefix = (*prefix, token) if token in nexts and (*prefix, token) not in catalogue else ()
    return found


def unpacked(flags):
    bits = np.asarray(flags)[..., None] >> np.arange(32, dtype=np.uint32) & 1
    return [set(np.flatnonzero(row)) for row in bits.reshape(-1, V)]


@pytest.mark.parametrize("count", [1, 24])
def test_a_token_of_an_id_is_one_of_those_that_continue_it(count):
    """In lists with and without ends, behind words, and in packed rows, whose answers follow."""
    rng = np.random.default_rng(count)
    catalogue = catalogue_of(rng, count)
    targets = np.zeros((30, 40), np.int32)
    for row in targets:
        answers = [[3, 4, EOS], [*catalogue[-1][:1], 5, EOS]]  # a beginning that nothing follows
        for ended in (False, True):
            chosen = rng.integers(0, count, rng.integers(1, 4))
            answers.append(listed([catalogue[item] for item in chosen], ended))
        tokens = [token for answer in rng.permutation(4) for token in answers[answer]]
        row[: len(tokens)] = tokens[: len(row)]
    fed = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    fed[fed == EOS] = 0
    among = jax.jit(Children.build(catalogue, V).among)(fed, targets)
    for row, flags in zip(targets, among, strict=True):
        assert unpacked(flags) == followers(catalogue, row.tolist())


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_and_its_gradient_are_those_of_the_tokens_alone(smoothing):
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(6, V)) * 20).astype(np.float32)
    allowed = rng.random((6, V)) < 0.2
    targets = rng.integers(0, V, 6)
    allowed[np.arange(6), targets] = True
    allowed[5] = True
    among = np.packbits(allowed, axis=1, bitorder="little").view(np.uint32)

    def ours(x):
        nll, uniform, _ = token_loss(x, targets, among)
        return ((1 - smoothing) * nll + smoothing * uniform).sum()

    expected, slopes = 0.0, np.zeros_like(logits, np.float64)
    for row, tokens, target, slope in zip(logits, allowed, targets, slopes, strict=True):
        own = np.flatnonzero(tokens)
        share = smoothing / len(own) + (1 - smoothing) * (own == target)
        log_p = row[own].astype(np.float64) - np.logaddexp.reduce(row[own].astype(np.float64))
        expected -= (share * log_p).sum()
        slope[own] = np.exp(log_p) - share
    loss, gradient = jax.value_and_grad(ours)(jnp.asarray(logits))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, slopes, atol=1e-5)
    hits = [row[own].max() == row[t] for row, own, t in zip(logits, allowed, targets, strict=True)]
    np.testing.assert_array_equal(token_loss(logits, targets, among).hit, hits)


CATALOGUE = [(20, 30), (20, 31, 40), (20, 31, 41), (21, 30, 42), (21, 33), (22,)]


@pytest.fixture(scope="module")
def model():
    made = small_model(V)
    made = Transformer(replace(made.config, likelihood="children"))
    return made, init_params(made, jax.random.key(0))


def test_an_items_log_probability_is_minus_the_loss_of_its_id(model):
    sources = np.random.default_rng(1).integers(2, 20, (2, 5)).astype(np.int32)
    targets = padded([(*id, EOS) for id in CATALOGUE])
    rows = {
        "encoder_input_tokens": np.repeat(sources, len(CATALOGUE), axis=0),
        "decoder_input_tokens": np.tile(np.pad(targets, ((0, 0), (1, 0)))[:, :-1], (2, 1)),
        "decoder_target_tokens": np.tile(targets, (2, 1)),
    }
    children = Children.build(CATALOGUE, V)

    def loss(weights):
        batch = rows | {"decoder_loss_weights": weights * (rows["decoder_target_tokens"] > EOS)}
        return batch_sums(*model, batch, None, children=children)[0]

    # What a weight of one row adds to the sum is the row's own loss.
    own = jax.jit(jax.grad(loss))(np.ones(rows["decoder_target_tokens"].shape, np.float32))
    expected = -np.asarray(own).sum(axis=1).reshape(2, len(CATALOGUE))
    # The gradients of a trigger search are of the same loss.
    (made, params), tokens = model, rows["encoder_input_tokens"]
    embedded = made.apply({"params": params}, tokens, method="embed")
    said, scored = rows["decoder_target_tokens"], rows["decoder_target_tokens"] > EOS
    mean = jax.jit(example_nll, static_argnums=0)(
        made, params, embedded, tokens, said, scored, children
    )
    np.testing.assert_allclose(-mean * scored.sum(axis=1), expected.ravel(), atol=1e-5)
    trie = Trie.build([(*id, EOS) for id in CATALOGUE])
    ranking = rank(*model, sources, trie, len(CATALOGUE), "exact")
    found = np.take_along_axis(expected, ranking.items, axis=1)
    np.testing.assert_allclose(ranking.logp, found, atol=1e-5)
    np.testing.assert_allclose(np.exp(ranking.logp).sum(axis=1), 1, atol=1e-5)


def test_answers_of_words_keep_the_whole_vocabulary(model):
    trie = Trie.build([(5, EOS), (6, EOS)])
    logp = score_all(*model, np.arange(3, 8, dtype=np.int32)[None], trie)
    assert np.exp(logp).sum() < 0.5  # of random parameters, for which no word is special


def test_ids_that_are_numbers_are_refused(world, world_vocabulary):
    config = replace(small_model(V).config, likelihood="children")
    with pytest.raises(UserError, match=r"^T5Config.likelihood: found 'children' with item ids"):
        children_of(config, world_vocabulary, world.item_ids)
    plain = replace(config, likelihood="vocabulary")
    assert children_of(plain, world_vocabulary, world.item_ids) is None


def test_more_beginnings_than_can_be_numbered_are_refused():
    """Of 50,000 first tokens each with an own second: 50,001 beginnings times 100,001 tokens."""
    ids = [(2 + n, 50_002 + n) for n in range(50_000)]
    with pytest.raises(UserError, match="found 50,001 beginnings of item ids, expected at most"):
        Children.build(ids, 100_032)


def test_a_datasets_ids_are_read_as_its_vocabulary_writes_them():
    texts = [f"<c0_{n}><c1_{m}>" for n in range(2) for m in range(3)]
    tokens = sorted({f"<{part}>" for text in texts for part in text[1:-1].split("><")})
    vocabulary = Vocabulary.train(["one two three"] * 20, size=100, id_tokens=tokens, seed=0)
    config = replace(small_model(V).config, likelihood="children")
    children = children_of(config, vocabulary, texts)
    target = np.array([vocabulary.encode(texts[4])], np.int32)
    fed = np.pad(target, ((0, 0), (1, 0)))[:, :-1]
    bits = np.asarray(children.among(fed, target))[..., None] >> np.arange(32, dtype=np.uint32) & 1
    found = [np.flatnonzero(row) for row in bits.reshape(2, -1)]
    assert [[vocabulary.piece(token) for token in row] for row in found] == [
        ["<c0_0>", "<c0_1>"], ["<c1_0>", "<c1_1>", "<c1_2>"],
    ]  # fmt: skip
