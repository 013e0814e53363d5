"""The T5 module against hand-computed values and against itself in other arrangements."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from t5_case import CONFIGS, V10, V11, WORD_STARTS, Case, V, shifted, tokens

from p5jax.core.errors import UserError
from p5jax.models.attention import RelativePositionBias, relative_buckets, repeat_rows
from p5jax.models.layers import product
from p5jax.models.t5 import T5Config, Transformer, init_params, param_axes, whole_word_ids


@pytest.fixture(scope="module")
def case() -> Case:
    """T5 v1.0; v1.1 differs only in its feed-forward block and logits, which parity tests cover."""
    return Case(V10)


@pytest.fixture(scope="module", params=CONFIGS)
def any_case(request: pytest.FixtureRequest) -> Case:
    return Case(CONFIGS[request.param])


def assert_close(a: Any, b: Any, tolerance: float = 2e-5) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tolerance, rtol=tolerance)


# -------------------------------------------------------------------------- whole-word ids, biases


def test_whole_word_ids_by_hand() -> None:
    # even: a word starts; odd (>= 3): it goes on; 1: end of sequence; 0: padding.
    source = jnp.array([[4, 5, 6, 8, 9, 1, 0, 0], [5, 4, 4, 7, 1, 0, 0, 0]])
    ids = whole_word_ids(source, jnp.asarray(WORD_STARTS))
    assert ids.tolist() == [[1, 1, 2, 3, 3, 0, 0, 0], [0, 1, 2, 2, 0, 0, 0, 0]]


def test_whole_word_ids_restart_with_each_packed_segment() -> None:
    source = jnp.array([[4, 6, 7, 1, 8, 9, 10, 1, 5, 4, 1, 0, 0]])
    segments = jnp.array([[1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 0, 0]])
    ids = whole_word_ids(source, jnp.asarray(WORD_STARTS), segments)
    assert ids.tolist() == [[1, 2, 2, 0, 1, 1, 2, 0, 0, 1, 0, 0, 0]]


def test_whole_word_ids_end_at_511() -> None:
    ids = whole_word_ids(jnp.full((1, 600), 4), jnp.asarray(WORD_STARTS))
    assert ids[0].tolist() == [min(n, 511) for n in range(1, 601)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(2, V - 1), min_size=1, max_size=6), min_size=1, max_size=4))
def test_packed_whole_word_ids_equal_those_of_each_segment(sources: list[list[int]]) -> None:
    row, segments, expected = [], [], []
    for number, source in enumerate(sources, start=1):
        row += [*source, 1]
        segments += [number] * (len(source) + 1)
        count = 0
        for token in source:
            count += token % 2 == 0
            expected.append(count)
        expected.append(0)
    pad = 32 - len(row)
    padded = [np.array([[*values, *[0] * pad]]) for values in (row, segments, expected)]
    ids = whole_word_ids(jnp.asarray(padded[0]), jnp.asarray(WORD_STARTS), jnp.asarray(padded[1]))
    assert ids.tolist() == padded[2].tolist()


def test_relative_buckets_by_hand() -> None:
    # 32 buckets, distance 128. One direction: 0 … 15 exactly, then logarithmic to 31; the future
    # is bucket 0. Two directions: 16 a side, 8 exact.
    past = jnp.array([0, -1, -15, -16, -127, -128, -5000, 3])
    assert relative_buckets(past, False, 32, 128).tolist() == [0, 1, 15, 16, 31, 31, 31, 0]
    both = jnp.array([0, -7, -8, -200, 1, 7, 8, 200])
    assert relative_buckets(both, True, 32, 128).tolist() == [0, 7, 8, 15, 17, 23, 24, 31]


@pytest.mark.parametrize(("queries", "keys", "first"), [(5, 5, 0), (1, 9, 4), (3, 7, 2), (4, 1, 0)])
def test_position_bias_is_the_table_at_each_pair_s_bucket(
    queries: int, keys: int, first: int
) -> None:
    module = RelativePositionBias(2, 32, 128, bidirectional=True)
    table = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
    bias = module.apply({"params": {"rel_embedding": table}}, queries, keys, jnp.int32(first))
    for q in range(queries):
        for k in range(keys):
            bucket = int(relative_buckets(jnp.array([k - q - first]), True, 32, 128)[0])
            assert_close(bias[:, q, k], table[:, bucket], 1e-6)


def test_written_gradients_equal_the_derived_ones() -> None:
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 5))
    weights = rng.normal(size=(2, 3, 5))
    x, kernel, weights = (jnp.asarray(a, jnp.float32) for a in (x, kernel, weights))
    ours = jax.grad(lambda *a: (product(*a, jnp.float32, jnp.float32) * weights).sum(), (0, 1))
    plain = jax.grad(lambda *a: ((a[0] @ a[1]) * weights).sum(), (0, 1))
    for a, b in zip(ours(x, kernel), plain(x, kernel), strict=True):
        assert_close(a, b, 1e-6)
    assert repeat_rows(x, 3).tolist() == [x.tolist()] * 3


# ------------------------------------------------------------------------------------- invariances


def test_cached_decoding_equals_uncached(case: Case) -> None:
    source, targets = tokens(1, 2, 9), tokens(2, 2, 6)
    source[0, 5:] = 0
    inputs = shifted(targets)
    encoded = case.encode(source)
    full = case.decode(encoded, source, inputs, targets)
    variables = {"params": case.params}
    _, made = case.model.apply(
        variables, encoded, source, inputs, targets, enable_dropout=False, decode=True,
        mutable=["cache"], method="decode",
    )  # fmt: skip
    _, projected = case.model.apply(variables, encoded, mutable=["cross"], method="project_encoded")
    for extra in ({}, projected):
        cache, steps = made["cache"], []
        step = jax.jit(
            lambda cache, token, extra=extra: case.model.apply(
                {**variables, **extra, "cache": cache}, encoded, source, token, token,
                enable_dropout=False, decode=True, max_decode_length=6,
                mutable=["cache"], method="decode",
            )
        )  # fmt: skip
        for position in range(6):
            logits, changed = step(cache, inputs[:, position : position + 1])
            cache = changed["cache"]
            steps.append(logits)
        assert_close(jnp.concatenate(steps, axis=1), full)


def test_padding_does_not_change_logits(case: Case) -> None:
    source, targets = tokens(3, 2, 7), tokens(4, 2, 4)
    plain = case.logits(source, shifted(targets), targets)
    wider = [np.pad(a, ((0, 0), (0, 5))) for a in (source, shifted(targets), targets)]
    assert_close(case.logits(*wider)[:, :4], plain)


def test_packed_logits_equal_each_segment_s(case: Case) -> None:
    lengths = [(5, 3), (4, 2), (6, 4)]
    source, source_segments = np.zeros((1, 18), np.int32), np.zeros((1, 18), np.int32)
    inputs, targets, target_segments = (np.zeros((1, 12), np.int32) for _ in range(3))
    expected, at, t_at = [], 0, 0
    for number, (s, t) in enumerate(lengths, start=1):
        one, answer = tokens(number, 1, s), tokens(10 + number, 1, t)
        one[0, -1] = answer[0, -1] = 1
        expected.append(case.logits(one, shifted(answer), answer)[0])
        source[0, at : at + s], source_segments[0, at : at + s] = one[0], number
        window = slice(t_at, t_at + t)
        inputs[0, window], targets[0, window] = shifted(answer)[0], answer[0]
        target_segments[0, window] = number
        at, t_at = at + s, t_at + t
    packed = case.logits(source, inputs, targets, source_segments, target_segments)
    assert_close(packed[0, :t_at], jnp.concatenate(expected))


def test_candidates_in_segments_equal_separate_decoding(case: Case) -> None:
    source, candidates = tokens(5, 2, 8), tokens(6, 6, 3)  # three candidates for each source
    source[1, 6:] = 0
    encoded = case.encode(source)
    inputs = shifted(candidates)
    repeated = [np.repeat(a, 3, axis=0) for a in (np.asarray(encoded), source)]
    separate = case.decode(*repeated, inputs, candidates)
    row, target_row = inputs.reshape(2, 9), candidates.reshape(2, 9)
    segments = np.repeat([[1, 2, 3]], 3, axis=1).repeat(2, axis=0).astype(np.int32)
    segments.sort(axis=1)
    in_segments = case.decode(encoded, source, row, target_row, decoder_segment_ids=segments)
    assert_close(in_segments.reshape(6, 3, V), separate)
    # The same six rows against the two sources, without repeating these.
    assert_close(case.decode(encoded, source, inputs, candidates), separate)


def test_encode_embedded_is_the_second_half_of_encode(case: Case) -> None:
    source = tokens(7, 2, 6)
    source[0, 4:] = 0
    variables = {"params": case.params}
    embedded = case.model.apply(variables, source, method="embed")
    table = case.params["token_embedder"]["embedding"]
    words = case.params["whole_word_embedder"]["embedding"]
    by_hand = table[source] + words[whole_word_ids(jnp.asarray(source), jnp.asarray(WORD_STARTS))]
    assert_close(embedded, by_hand, 1e-6)
    encoded = case.model.apply(
        variables, embedded, source, enable_dropout=False, method="encode_embedded"
    )
    assert_close(encoded, case.encode(source), 1e-6)


# --------------------------------------------------------------------------- parameters, gradients


def test_params_axes_match_the_parameters(any_case: Case) -> None:
    params = flatten_dict(any_case.params)
    axes = flatten_dict(param_axes(any_case.model))
    assert params.keys() == axes.keys()
    names = {"embed", "vocab", "mlp", "heads", "joined_kv", "relpos_buckets"}
    for path, array in params.items():
        assert len(axes[path]) == array.ndim, path
        assert set(axes[path]) <= names, path
    assert axes["encoder", "layers_0", "attention", "query", "kernel"] == ("embed", "joined_kv")
    assert axes["decoder", "layers_1", "mlp", "wo", "kernel"] == ("mlp", "embed")
    assert axes["token_embedder", "embedding"] == ("vocab", "embed")
    collections = jax.eval_shape(
        lambda: any_case.model.init(jax.random.key(0), *[jnp.ones((1, 2), jnp.int32)] * 3)
    )
    assert {"params", "params_axes"} <= collections.keys()


def test_t5x_parameter_names() -> None:
    names = {"/".join(p) for p in flatten_dict(jax.eval_shape(
        lambda: init_params(Transformer(V11), jax.random.key(0))
    ))}  # fmt: skip
    layer = "decoder/layers_1"
    attention = ("self_attention", "encoder_decoder_attention")
    expected = {
        f"{layer}/{a}/{p}/kernel" for a in attention for p in ("query", "key", "value", "out")
    }
    expected |= {f"{layer}/mlp/{p}/kernel" for p in ("wi_0", "wi_1", "wo")}
    norms = (
        "pre_self_attention_layer_norm",
        "pre_cross_attention_layer_norm",
        "pre_mlp_layer_norm",
    )
    expected |= {f"{layer}/{norm}/scale" for norm in norms}
    assert {n for n in names if n.startswith(layer)} == expected
    assert {"encoder/relpos_bias/rel_embedding", "decoder/logits_dense/kernel",
            "encoder/encoder_norm/scale", "decoder/decoder_norm/scale"} <= names  # fmt: skip


def test_number_of_parameters_is_t5_small_s() -> None:
    config = T5Config(vocab_size=32128, whole_words=False)
    shapes = jax.eval_shape(lambda: init_params(Transformer(config), jax.random.key(0)))
    total = sum(int(np.prod(a.shape)) for a in jax.tree.leaves(shapes))
    # reference: 60.75 M at a vocabulary of 32,100 (+ 28 padding rows of 512)
    assert round((total - 28 * 512 + 512 * 512) / 1e6, 2) in (60.75, 60.76)


def test_every_parameter_gets_a_gradient_and_a_step_lowers_the_loss(any_case: Case) -> None:
    source, targets = tokens(8, 4, 40), tokens(9, 4, 40)

    def loss(params: Any) -> jax.Array:
        logits = any_case.model.apply(
            {"params": params}, source, shifted(targets), targets, enable_dropout=False
        )
        log_p = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_p, targets[..., None], axis=-1).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(any_case.params)
    assert abs(float(value) - np.log(V)) < 1.0  # a fresh model is near uniform
    for path, array in flatten_dict(gradient).items():
        assert float(jnp.abs(array).max()) > 0, path
    stepped = jax.tree.map(lambda p, g: p - 1e-2 * g, any_case.params, gradient)
    assert float(jax.jit(loss)(stepped)) < float(value)


def test_bfloat16_keeps_float32_parameters_and_logits(case: Case) -> None:
    model = Transformer(dataclasses.replace(case.config, dtype="bfloat16"))
    source, targets = tokens(13, 2, 7), tokens(14, 2, 4)
    logits = jax.jit(partial(model.apply, enable_dropout=False))(
        {"params": case.params}, source, shifted(targets), targets
    )
    assert logits.dtype == jnp.float32
    reference = case.logits(source, shifted(targets), targets)
    assert float(jnp.abs(logits - reference).max()) < 0.15
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    assert all(array.dtype == jnp.float32 for array in jax.tree.leaves(shapes))


# ------------------------------------------------------------------------------------------ errors


def test_whole_words_without_a_table_of_word_starts_is_an_error() -> None:
    model = Transformer(dataclasses.replace(V10, word_starts=b""))
    with pytest.raises(UserError, match="word_starts"):
        init_params(model, jax.random.key(0))


def test_config_errors_name_the_field() -> None:
    with pytest.raises(UserError, match=r"dtype: found 'int8', expected float32 or bfloat16"):
        dataclasses.replace(V10, dtype="int8")
    with pytest.raises(UserError, match=r"mlp_activations: found 'tanh'"):
        dataclasses.replace(V10, mlp_activations=("tanh",))
