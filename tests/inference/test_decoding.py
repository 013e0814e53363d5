"""Text decoding against uncached decoding, enumeration of all texts, and transformers."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import small_model

from p5jax.core.errors import UserError
from p5jax.inference.decoding import beam_search, greedy, nucleus, sample
from p5jax.models.t5 import Transformer, init_params

EOS, VOCABULARY, LENGTH = 1, 6, 4


@pytest.fixture(scope="module")
def model():
    return small_model(VOCABULARY)


@pytest.fixture(scope="module")
def params(model):
    return init_params(model, jax.random.key(3))


@pytest.fixture(scope="module")
def sources():
    tokens = np.random.default_rng(0).integers(2, VOCABULARY, (6, 7))
    tokens[2, 4:] = 0
    return jnp.asarray(tokens, jnp.int32)


@pytest.fixture(scope="module")
def texts():
    """Every text of at most LENGTH tokens that ends with eos or is cut at LENGTH, padded."""
    found = []
    for n in range(1, LENGTH + 1):
        for tokens in itertools.product([t for t in range(VOCABULARY) if t != EOS], repeat=n - 1):
            ends = range(VOCABULARY) if n == LENGTH else [EOS]
            found += [(*tokens, end) for end in ends]
    return found


@pytest.fixture(scope="module")
def logp(model, params, sources, texts):
    """Log-probability of every text for every source [B, N] by uncached teacher forcing."""
    targets = np.array([(*t, *[0] * (LENGTH - len(t))) for t in texts], np.int32)
    inside = np.arange(LENGTH) < np.array([len(t) for t in texts])[:, None]
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]

    @jax.jit
    def token_logp(source):
        tiled = jnp.tile(source, (len(texts), 1))
        logits = model.apply({"params": params}, tiled, shifted, targets, enable_dropout=False)
        return jax.nn.log_softmax(logits)

    rows = []
    for source in sources:
        each = np.take_along_axis(np.asarray(token_logp(source)), targets[:, :, None], 2)
        rows.append((each[:, :, 0] * inside).sum(axis=1))
    return np.array(rows)


def test_probabilities_of_all_texts_sum_to_one(logp):
    np.testing.assert_allclose(np.exp(logp).sum(axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("begun", [False, True])
def test_greedy_follows_the_uncached_argmax(model, params, sources, begun):
    rng = np.random.default_rng(1)
    begins = [rng.integers(2, VOCABULARY, n % 4) for n in range(len(sources))]
    given = np.full((len(sources), 6), -1, np.int32)
    for row, begin in zip(given, begins, strict=True):
        row[6 - len(begin) :] = begin

    @jax.jit
    def logits_of(targets):
        return model.apply({"params": params}, sources, targets, targets, enable_dropout=False)

    output = np.asarray(greedy(model, params, sources, 9, given if begun else None))
    shifted = np.zeros((len(sources), 10), np.int32)
    ended = np.zeros(len(sources), bool)
    for position in range(9):
        token = np.array(logits_of(shifted))[:, position].argmax(axis=-1)
        for row, begin in enumerate(begins):
            if begun and position < len(begin):
                token[row] = begin[position]
        shifted[:, position + 1] = np.where(ended, 0, token)
        ended |= token == EOS
    np.testing.assert_array_equal(output, shifted[:, 1:])


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_wide_beam_finds_the_best_of_all_texts(model, params, sources, texts, logp, alpha):
    beam = VOCABULARY ** (LENGTH - 1)
    output, scores = (
        np.asarray(x) for x in beam_search(model, params, sources, LENGTH, beam, alpha)
    )
    expected = logp / np.array([len(t) for t in texts]) ** alpha
    for user, row in enumerate(expected):
        order = np.argsort(-row)[:3]
        np.testing.assert_allclose(scores[user, :3], row[order], atol=2e-5)
        for found, best in zip(output[user], order, strict=False):
            assert tuple(found[: len(texts[best])]) == texts[best]


@pytest.mark.parametrize("most", [1, 2])
def test_wide_beam_finds_the_best_text_without_repeats(model, params, sources, texts, logp, most):
    beam = VOCABULARY ** (LENGTH - 1)
    output, scores = beam_search(
        model, params, sources, LENGTH, beam, 0.0, given=None, no_repeat=most
    )
    grams = [[text[n : n + most] for n in range(len(text) - most + 1)] for text in texts]
    allowed = np.array([len(set(each)) == len(each) for each in grams])
    assert allowed.any()
    assert not allowed.all()
    for user, row in enumerate(np.where(allowed, logp, -np.inf)):
        best = int(row.argmax())
        np.testing.assert_allclose(scores[user, 0], row[best], atol=2e-5)
        assert tuple(output[user, 0].tolist()[: len(texts[best])]) == texts[best]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_wide_beam_finds_the_best_text_behind_what_is_given(
    model, params, sources, texts, logp, alpha
):
    begins = [(), (3,), (2, 4), (5,), (3, 3), ()]
    given = np.full((len(sources), 4), -1, np.int32)
    for row, begin in zip(given, begins, strict=True):
        row[4 - len(begin) :] = begin
    beam = VOCABULARY ** (LENGTH - 1)
    output, scores = beam_search(model, params, sources, LENGTH, beam, alpha, given=given)
    for user, begin in enumerate(begins):
        some = [n for n, text in enumerate(texts) if text[: len(begin)] == begin]
        after = logp[user, some] - np.logaddexp.reduce(logp[user, some])  # less the beginning's
        after /= np.array([len(texts[n]) - len(begin) for n in some]) ** alpha
        best = some[int(after.argmax())]
        np.testing.assert_allclose(scores[user, 0], after.max(), atol=2e-5)
        assert tuple(output[user, 0].tolist()[: len(texts[best])]) == texts[best]


def test_scores_of_a_narrow_beam_are_true(model, params, sources, texts, logp):
    output, scores = (np.asarray(x) for x in beam_search(model, params, sources, LENGTH, 3, 1.0))
    for user, rank in np.ndindex(scores.shape):
        tokens = output[user, rank].tolist()
        text = tuple(tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens)
        expected = logp[user, texts.index(text)] / len(text)
        np.testing.assert_allclose(scores[user, rank], expected, atol=2e-5)


def test_samples_follow_the_model(model, params, sources, texts, logp):
    repeated = jnp.repeat(sources[:1], 4000, axis=0)
    output = np.asarray(sample(model, params, repeated, LENGTH, jax.random.key(0), 1.0, 1.0))
    drawn: dict[tuple[int, ...], int] = {}
    for row in output.tolist():
        text = tuple(row[: row.index(EOS) + 1] if EOS in row else row)
        drawn[text] = drawn.get(text, 0) + 1
    shares = np.array([drawn.get(text, 0) / 4000 for text in texts])
    probability = np.exp(logp[0])
    error = np.sqrt(probability * (1 - probability) / 4000)
    assert (np.abs(shares - probability) < 5 * error + 1e-3).all()


def test_low_temperature_and_small_nucleus_are_greedy(model, params, sources):
    expected = np.asarray(greedy(model, params, sources, 6))
    key = jax.random.key(1)
    for temperature, top_p in ((1e-4, 1.0), (1.0, 1e-6)):
        output = sample(model, params, sources, 6, key, temperature, top_p)
        np.testing.assert_array_equal(output, expected)


def test_nucleus_keeps_the_smallest_sufficient_set():
    logits = np.log([[0.1, 0.5, 0.15, 0.25]])
    for top_p, kept in ((0.4, {1}), (0.6, {1, 3}), (0.8, {1, 2, 3}), (1.0, {0, 1, 2, 3})):
        finite = np.isfinite(np.asarray(nucleus(jnp.asarray(logits), top_p)))[0]
        assert set(np.flatnonzero(finite)) == kept


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 0.0), (1.0, 1.5)])
def test_impossible_settings_are_refused(model, params, sources, temperature, top_p):
    with pytest.raises(UserError, match="expected a number above 0"):
        sample(model, params, sources, 4, jax.random.key(0), temperature, top_p)


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """A random torch T5, and the same weights in p5jax."""
    torch = pytest.importorskip("torch", reason="needs torch (make test-extras)")
    transformers = pytest.importorskip(
        "transformers", reason="needs transformers (make test-extras)"
    )
    from p5jax.models.checkpoints.hugging_face import import_hugging_face

    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=12,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=EOS,
        decoder_start_token_id=0,
    )
    reference = transformers.T5ForConditionalGeneration(config).eval()
    folder = tmp_path_factory.mktemp("hf")
    reference.save_pretrained(folder)
    imported, params = import_hugging_face(folder)
    return reference, Transformer(imported), params


@pytest.fixture(scope="module")
def prompts():
    tokens = np.random.default_rng(5).integers(2, 12, (16, 11)).astype(np.int32)
    tokens[3, 5:] = 0
    tokens[6, 8:] = 0
    return tokens


def generated(reference, prompts, length, **options):
    import torch

    inputs = torch.tensor(prompts, dtype=torch.long)
    output = reference.generate(
        inputs,
        attention_mask=(inputs != 0).long(),
        max_new_tokens=length,
        do_sample=False,
        **options,
    ).numpy()[:, 1:]
    output = np.pad(output, ((0, 0), (0, length - output.shape[1])))
    # Its beam search fills up with eos when the padding id is 0.
    after_end = (output == EOS).cumsum(axis=1) - (output == EOS) > 0
    return np.where(after_end, 0, output)


@pytest.mark.extras
def test_greedy_is_that_of_transformers(hugging_face, prompts):
    reference, model, params = hugging_face
    expected = generated(reference, prompts, 12, num_beams=1)
    assert (expected == EOS).any()  # some texts end early
    np.testing.assert_array_equal(greedy(model, params, prompts, 12), expected)


@pytest.mark.extras
@pytest.mark.parametrize(("alpha", "no_repeat"), [(1.0, 0), (0.5, 0), (1.0, 2), (1.0, 3)])
def test_beam_search_is_that_of_transformers(hugging_face, prompts, alpha, no_repeat):
    reference, model, params = hugging_face
    options = {"length_penalty": alpha, "no_repeat_ngram_size": no_repeat}
    expected = generated(reference, prompts, 12, num_beams=4, early_stopping="never", **options)
    output, _ = beam_search(model, params, prompts, 12, 4, alpha, no_repeat=no_repeat)
    np.testing.assert_array_equal(np.asarray(output)[:, 0], expected)
