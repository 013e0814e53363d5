"""What t5x asks of a module, written down here by hand and checked without t5x.

tests/parity/test_t5x.py holds the same module against t5x itself where that is installed.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from p5jax.core.config import gin_folder
from p5jax.models.t5 import T5Config, Transformer, init_params, param_axes
from p5jax.pipeline.batching import Tokens, packed_batch

V1_0 = T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=4,
    mlp_dim=24,
    word_starts=np.packbits(np.arange(64) % 2 == 0).tobytes(),
)
V1_1 = replace(V1_0, mlp_activations=("gelu", "linear"), logits_via_embedding=False)

# t5x's minimal T5, unscanned, as its checkpoints and its partitioning rules name it.
SELF_ATTENTION = {
    "query/kernel": ("embed", "joined_kv"),
    "key/kernel": ("embed", "joined_kv"),
    "value/kernel": ("embed", "joined_kv"),
    "out/kernel": ("joined_kv", "embed"),
}
NAMES = {
    "token_embedder/embedding": ("vocab", "embed"),
    "encoder/relpos_bias/rel_embedding": ("heads", "relpos_buckets"),
    **{f"encoder/layers_0/attention/{n}": axes for n, axes in SELF_ATTENTION.items()},
    "encoder/layers_0/pre_attention_layer_norm/scale": ("embed",),
    "encoder/layers_0/pre_mlp_layer_norm/scale": ("embed",),
    "encoder/encoder_norm/scale": ("embed",),
    "decoder/relpos_bias/rel_embedding": ("heads", "relpos_buckets"),
    **{f"decoder/layers_0/self_attention/{n}": axes for n, axes in SELF_ATTENTION.items()},
    **{
        f"decoder/layers_0/encoder_decoder_attention/{n}": axes
        for n, axes in SELF_ATTENTION.items()
    },
    "decoder/layers_0/pre_self_attention_layer_norm/scale": ("embed",),
    "decoder/layers_0/pre_cross_attention_layer_norm/scale": ("embed",),
    "decoder/layers_0/pre_mlp_layer_norm/scale": ("embed",),
    "decoder/decoder_norm/scale": ("embed",),
    # What p5jax adds; t5x's rules replicate both of its axes.
    "whole_word_embedder/embedding": ("relpos_buckets", "embed"),
}
MLPS = {"v1.0": ("wi",), "v1.1": ("wi_0", "wi_1")}
CONFIGS = {"v1.0": V1_0, "v1.1": V1_1}
# The axes that t5x's standard_logical_axis_rules know.
KNOWN_AXES = {"vocab", "embed", "mlp", "heads", "kv", "joined_kv", "relpos_buckets"}


@pytest.mark.parametrize("version", CONFIGS)
def test_names_and_axes_are_those_of_t5xs_network(version):
    expected = dict(NAMES)
    for stack in ("encoder", "decoder"):
        for part in MLPS[version]:
            expected[f"{stack}/layers_0/mlp/{part}/kernel"] = ("embed", "mlp")
        expected[f"{stack}/layers_0/mlp/wo/kernel"] = ("mlp", "embed")
    if version == "v1.1":
        expected["decoder/logits_dense/kernel"] = ("embed", "vocab")
    model = Transformer(CONFIGS[version])
    found = flatten_dict(param_axes(model), sep="/")
    assert found == expected
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    assert {name: len(leaf.shape) for name, leaf in flatten_dict(shapes, sep="/").items()} == {
        name: len(axes) for name, axes in expected.items()
    }
    assert {axis for axes in found.values() for axis in axes} <= KNOWN_AXES


def test_axes_come_with_the_parameters():
    """t5x reads `params_axes`, a leaf `<name>_axes` beside each parameter, from `init` itself."""
    tokens = np.ones((1, 2), np.int32)
    variables = jax.eval_shape(
        lambda: Transformer(V1_0).init(
            jax.random.key(0), tokens, tokens, tokens, decode=False, enable_dropout=False
        )
    )
    assert set(variables) == {"params", "params_axes"}
    names = {"/".join(path) for path in flatten_dict(variables["params_axes"])}
    assert names == {f"{'/'.join(path)}_axes" for path in flatten_dict(variables["params"])}


# How t5x.models.EncoderDecoderModel calls the module: positional arguments, then keywords.
CALLS = {
    "__call__": (
        ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens"),
        {"encoder_segment_ids", "decoder_segment_ids", "encoder_positions", "decoder_positions"}
        | {"decode", "enable_dropout"},
    ),
    "encode": (("encoder_input_tokens",), {"enable_dropout"}),
    "decode": (
        ("encoded", "encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens"),
        {"enable_dropout", "decode", "max_decode_length"},
    ),
}


@pytest.mark.parametrize("method", CALLS)
def test_methods_take_what_t5x_gives(method):
    positional, keywords = CALLS[method]
    parameters = inspect.signature(getattr(Transformer, method)).parameters
    assert tuple(parameters)[1 : 1 + len(positional)] == positional
    assert keywords <= set(parameters)
    optional = set(parameters) - {"self", *positional}
    assert all(parameters[name].default is not inspect.Parameter.empty for name in optional)
    # t5x would fill the cache with a prompt if this were there.
    assert "prefill" not in parameters


# Two examples, [5, 6, 1] -> [4, 1] and [9, 8, 7, 1] -> [3, 2, 1], as SeqIO's EncDecFeatureConverter
# packs them for {"inputs": 9, "targets": 6}; all are int32.
RECORDED = {
    "encoder_input_tokens": [5, 6, 1, 9, 8, 7, 1, 0, 0],
    "encoder_segment_ids": [1, 1, 1, 2, 2, 2, 2, 0, 0],
    "encoder_positions": [0, 1, 2, 0, 1, 2, 3, 0, 0],
    "decoder_target_tokens": [4, 1, 3, 2, 1, 0],
    "decoder_input_tokens": [0, 4, 0, 3, 2, 0],
    "decoder_loss_weights": [1, 1, 1, 1, 1, 0],
    "decoder_segment_ids": [1, 1, 2, 2, 2, 0],
    "decoder_positions": [0, 1, 0, 1, 2, 0],
}
EXAMPLES = [
    Tokens(np.array([5, 6, 1], np.int32), np.array([4, 1], np.int32)),
    Tokens(np.array([9, 8, 7, 1], np.int32), np.array([3, 2, 1], np.int32)),
]


def test_a_packed_batch_has_the_converters_features():
    native = packed_batch([EXAMPLES], 9, 6, rows=1)
    assert set(native) == set(RECORDED)
    for name, values in RECORDED.items():
        if name != "decoder_loss_weights":
            assert native[name].dtype == np.int32
            assert native[name].tolist() == [values]
    # The same targets count; p5jax gives each example the weight one, t5x each token.
    weights = native["decoder_loss_weights"][0]
    assert ((weights > 0) == np.array(RECORDED["decoder_loss_weights"])).all()
    assert weights.tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3, 0])


def test_the_module_takes_the_converters_features_and_keeps_packed_examples_apart():
    model = Transformer(V1_0)
    params = init_params(model, jax.random.key(0))
    names = set(inspect.signature(Transformer.__call__).parameters)
    batch = {name: np.array([v], np.int32) for name, v in RECORDED.items() if name in names}
    assert set(RECORDED) - set(batch) == {"decoder_loss_weights"}
    call = partial(model.apply, {"params": params}, enable_dropout=False, decode=False)
    packed = jax.jit(call)(**batch)
    assert packed.shape == (1, 6, 64)
    for example, span in zip(EXAMPLES, (slice(0, 2), slice(2, 5)), strict=True):
        source, fed = np.zeros((1, 9), np.int32), np.zeros((1, 6), np.int32)
        source[0, : len(example.source)] = example.source
        fed[0, 1 : len(example.target)] = example.target[:-1]
        alone = jax.jit(call)(source, fed, fed)[:, : len(example.target)]
        np.testing.assert_allclose(packed[:, span], alone, atol=1e-5)


def test_the_cache_is_what_t5xs_decoding_expects():
    """It repeats each leaf but `cache_index` along axis 0 for the beams and gathers beams there."""
    batch, beams, length = 2, 3, 5
    model = Transformer(V1_0)
    params = init_params(model, jax.random.key(0))
    rng = np.random.default_rng(0)
    source = rng.integers(2, 64, (batch, 7)).astype(np.int32)
    ones = np.ones_like(source), np.ones((batch, length), np.int32)
    call = partial(model.apply, {"params": params}, enable_dropout=False)
    encoded = jax.jit(partial(call, method=model.encode))(source)
    _, variables = jax.jit(partial(call, mutable=["cache"], decode=True))(*ones, ones[1])
    cache = flatten_dict(variables["cache"])
    index = {path: leaf for path, leaf in cache.items() if path[-1] == "cache_index"}
    arrays = {path: leaf for path, leaf in cache.items() if path not in index}
    assert [leaf.shape for leaf in index.values()] == [()]
    assert arrays
    assert {leaf.shape[0] for leaf in arrays.values()} == {batch}

    def rows_of(tree, rows):
        return {p: leaf if p in index else leaf[rows] for p, leaf in flatten_dict(tree).items()}

    @jax.jit
    def logits_of(cache, *arrays):
        return model.apply(
            {"params": params, "cache": cache},
            *arrays,
            enable_dropout=False,
            decode=True,
            max_decode_length=length,
            mutable=["cache"],
            method=model.decode,
        )

    expanded = np.repeat(np.arange(batch), beams)
    flat = rows_of(variables["cache"], expanded)
    said = np.zeros((batch * beams, length), np.int32)  # what each beam was fed
    for step in range(length):
        said[:, step] = rng.integers(2, 64, batch * beams) if step else 0
        token = said[:, step : step + 1]
        inputs = encoded[expanded], source[expanded], token, token
        logits, variables = logits_of(unflatten_dict(flat), *inputs)
        # What is fed later does not change the logits of this step.
        fed = np.where(np.arange(length) <= step, said, 0)
        expected = jax.jit(call)(source[expanded], fed, fed)[:, step]
        np.testing.assert_allclose(logits[:, 0], expected, atol=1e-5)
        # Each source goes on with any of its own beams.
        chosen = rng.integers(0, beams, (batch, beams)) + beams * np.arange(batch)[:, None]
        flat, said = rows_of(variables["cache"], chosen.ravel()), said[chosen.ravel()]


def test_included_gin_files_are_here_or_t5xs():
    folder = gin_folder()
    files = sorted((folder / "t5x").glob("*.gin"))
    assert [file.stem for file in files] == ["eval", "finetune", "infer", "model", "pretrain"]
    for file in files:
        included = [
            line.split("'")[1]
            for line in file.read_text().splitlines()
            if line.startswith("include ")
        ]
        assert included
        for name in included:
            assert name.startswith("t5x/configs/runs/") or (folder / name).is_file(), name
    assert not list(folder.rglob("__init__.py"))
