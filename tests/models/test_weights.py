"""Weights in Hugging Face's format: what is exported, and what is refused, without transformers."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from small_model import small_model

from p5jax.core.errors import UserError
from p5jax.jobs.train import _refuse_other_vocabulary
from p5jax.models.checkpoints.hugging_face import export_hugging_face, import_hugging_face
from p5jax.models.checkpoints.tokenizer import (
    refuse_other_pieces,
    refuse_other_tokenizer,
    write_tokenizer,
)
from p5jax.models.t5 import init_params
from p5jax.text.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def weights():
    """The parameters and the configuration of a small model."""
    model = small_model(128)
    return jax.tree.map(np.asarray, init_params(model, jax.random.key(0))), model.config


@pytest.fixture
def exported(weights, tmp_path):
    export_hugging_face(*weights, tmp_path / "out")
    return tmp_path / "out"


def refused(folder):
    with pytest.raises(UserError) as caught:
        import_hugging_face(folder)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(folder)) + 300
    return str(caught.value)


def test_an_export_comes_back_and_has_ordinary_modes(weights, tmp_path):
    params, config = weights
    before = os.umask(0o027)
    try:
        export_hugging_face(params, config, tmp_path / "out")
    finally:
        os.umask(before)
    for file in (tmp_path / "out").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
    read, again = import_hugging_face(tmp_path / "out")
    assert dataclasses.replace(read, dropout_rate=config.dropout_rate) == config
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_an_export_has_its_tokenizer(weights, world_vocabulary, tmp_path):
    export_hugging_face(*weights, tmp_path / "out", vocabulary=world_vocabulary)
    pieces = Vocabulary.from_model(tmp_path / "out" / "spiece.model")
    assert pieces.num_pieces == world_vocabulary.num_pieces
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    added = {int(id): token["content"] for id, token in settings["added_tokens_decoder"].items()}
    assert added == {world_vocabulary.encode(t)[0]: t for t in world_vocabulary.id_tokens}
    export_hugging_face(*weights, tmp_path / "out", vocabulary=world_vocabulary)  # again


def test_a_folder_of_other_things_is_left_alone(weights, exported):
    (exported / "notes.txt").write_text("mine")
    before = {file.name: file.read_bytes() for file in exported.iterdir()}
    with pytest.raises(UserError, match="exists and is not an export; choose another folder"):
        export_hugging_face(*weights, exported)
    assert {file.name: file.read_bytes() for file in exported.iterdir()} == before


def test_what_a_killed_export_left_is_no_hindrance(weights, tmp_path):
    names = ("config.json", "model.safetensors", "spiece.model", "tokenizer_config.json")
    for name in names:
        (tmp_path / f".{name}.partial").write_text("half")
    export_hugging_face(*weights, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == set(names[:2])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(weights, tmp_path, value):
    params, config = weights
    flat = dict(flatten_dict(params))
    name = ("encoder", "layers_0", "attention", "query", "kernel")
    flat[name] = flat[name].copy()
    flat[name][1, 2] = value
    export_hugging_face(unflatten_dict(flat), config, tmp_path)
    assert "SelfAttention.q.weight: found numbers that are not finite" in refused(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 0}, "num_heads: found 0, expected 1 to "),
        ({"num_heads": True}, "num_heads: found True, expected a whole number"),
        ({"num_layers": -1}, "num_layers: found -1, expected 1 to "),
        ({"num_layers": 2**40}, "num_layers: found 1099511627776, expected 1 to 2147483647"),
        ({"num_layers": 10**6}, "encoder.block."),
        ({"d_model": "16"}, "d_model: found '16', expected a whole number"),
        ({"d_model": None}, "found no d_model, expected a whole number"),
        ({"vocab_size": 1.5}, "vocab_size: found 1.5, expected a whole number"),
        ({"num_decoder_layers": 0}, "num_decoder_layers: found 0, expected 1 to "),
        ({"dropout_rate": 1.5}, "dropout_rate: found 1.5, expected 0 to below 1"),
        ({"dropout_rate": [0]}, "dropout_rate: found [0], expected a number"),
        ({"relative_attention_max_distance": 0}, "relative_attention_max_distance: found 0"),
        ({"relative_attention_num_buckets": 33}, "relative_attention_bias.weight: found shape"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: found 'yes', expected true or"),
        ({"feed_forward_proj": ["relu"]}, "feed_forward_proj: found ['relu'], expected 'relu' or"),
        ({"layer_norm_epsilon": 1}, "layer_norm_epsilon: found 1, expected 1e-06"),
        ({"model_type": {"\ud800": 1}}, "found model_type {'\\ud800': 1}, expected 't5'"),
    ],
)
def test_a_configuration_out_of_range_names_the_field(exported, change, message):
    file = exported / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert message in refused(exported)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 9000, '{"d_model": ' + "9" * 5000 + "}"])
def test_a_configuration_that_is_none(exported, content):
    (exported / "config.json").write_text(content)
    assert "config.json: found " in refused(exported)


def test_every_flipped_bit_of_an_export_is_refused(exported):
    file = exported / "model.safetensors"
    content = file.read_bytes()
    for place in np.linspace(0, len(content) - 1, 40).astype(int).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        assert "model.safetensors" in refused(exported)


def test_weights_of_other_pieces_or_id_tokens_are_refused(world_vocabulary):
    texts = ["another corpus, with other words than the first one had"] * 3
    other = Vocabulary.train(texts, 150, world_vocabulary.id_tokens)
    with pytest.raises(UserError, match="trained with other pieces than the run's vocabulary"):
        refuse_other_pieces("t5-small", other, world_vocabulary)
    tokens = ["<c0_0>", "<c0_1>", "<c0_2>"]
    three, two, swapped = (
        Vocabulary(world_vocabulary.model, tokens[:2][::turn] if n == 2 else tokens[:n])
        for n, turn in ((3, 1), (2, 1), (2, -1))
    )
    refuse_other_pieces("run", two, three)  # new tokens come behind
    for theirs, ours in ((three, two), (swapped, three)):
        with pytest.raises(UserError, match=r"trained with \d id tokens that the run's vocabulary"):
            refuse_other_pieces("run", theirs, ours)


def test_an_export_of_other_item_ids_is_refused(world_vocabulary, tmp_path):
    theirs = Vocabulary(world_vocabulary.model, ["<c0_0>", "<c0_1>"])
    write_tokenizer(theirs, tmp_path)
    more = Vocabulary(world_vocabulary.model, ["<c0_0>", "<c0_1>", "<c0_2>"])
    refuse_other_tokenizer("run", tmp_path, more)
    settings = tmp_path / "tokenizer_config.json"
    for tokens in ((), ["<c0_0>"], ["<c0_1>", "<c0_0>"], ["<c0_0>", "<c0_7>"]):
        with pytest.raises(UserError, match="2 id tokens that the run's vocabulary does not begin"):
            refuse_other_tokenizer("run", tmp_path, Vocabulary(theirs.model, tokens))
    # The sentinels of a public model are added tokens too, but no id tokens.
    last = str(theirs.num_pieces + 99)
    settings.write_text(json.dumps({"added_tokens_decoder": {"1": {"content": "</s>"}, last: {}}}))
    refuse_other_tokenizer("t5-small", tmp_path, more)
    for damaged in ("[]", '{"added_tokens_decoder": {"x": {}}}', '{"added_tokens_decoder": 1}'):
        settings.write_text(damaged)
        with pytest.raises(UserError, match=r"tokenizer_config\.json: (added.*: )?found"):
            refuse_other_tokenizer("run", tmp_path, more)
    settings.unlink()
    refuse_other_tokenizer("t5-small", tmp_path, more)


@pytest.mark.parametrize("source", ["", "model.safetensors"])
def test_training_looks_for_the_tokenizer_beside_the_weights(world_vocabulary, exported, source):
    write_tokenizer(Vocabulary(world_vocabulary.model, ["<c0_0>"]), exported)
    ours = Vocabulary(world_vocabulary.model, ["<c0_1>"])
    run = SimpleNamespace(vocabulary=ours, manifest={"vocabulary_source": "a model"})
    with pytest.raises(UserError, match="1 id tokens that the run's vocabulary does not begin"):
        _refuse_other_vocabulary(run, str(exported / source))


def test_fewer_rows_than_pieces_are_refused(exported):
    with pytest.raises(UserError, match="found 128 rows, expected one for each of 300 pieces"):
        import_hugging_face(exported, vocab_size=512, pieces=300)
