"""Item vectors from a T5's encoder: each text alone, unpadded, gives the same mean."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from small_model import small_model
from trigger_run import random_run

from p5jax.core.errors import UserError
from p5jax.data.leaks import find_leaks
from p5jax.data.prepare import prepare
from p5jax.models.checkpoints.hugging_face import export_hugging_face
from p5jax.models.t5 import Transformer, init_params
from p5jax.runs.run import Run
from p5jax.runs.text_encoder import LONGEST, encode_texts

TEXTS = ["tea and a cup", "", "cup", "pot " * (LONGEST + 40)]


@pytest.fixture(scope="module")
def encoder(world_vocabulary, tmp_path_factory):
    """A Hugging Face folder of a tiny T5, and what its encoder gives for one text."""
    folder = tmp_path_factory.mktemp("encoder") / "t5"
    model = small_model(world_vocabulary.padded_size)
    params = init_params(model, jax.random.key(0))
    export_hugging_face(params, model.config, folder, vocabulary=world_vocabulary)

    def mean(text):
        tokens = np.array([world_vocabulary.encode(text)[:LONGEST]], np.int32)
        if not tokens.size:
            return np.zeros(model.config.emb_dim)
        states = model.apply({"params": params}, tokens, None, False, method=Transformer.encode)
        return np.asarray(states)[0].mean(axis=0)

    return folder, mean


@pytest.mark.check
def test_means_are_those_of_each_text_alone(encoder):
    folder, mean = encoder
    expected = np.array([mean(text) for text in TEXTS])
    np.testing.assert_allclose(encode_texts(folder, TEXTS), expected, atol=1e-5)


@pytest.mark.check
def test_a_dataset_keeps_what_the_encoder_made(encoder, tmp_path):
    folder, mean = encoder
    made = prepare("synthetic", tmp_path / "d", item_ids="semantic", text_encoder=folder)
    table = made.items.select(["title", "brand", "categories"]).to_pylist()
    text = " ".join(filter(None, table[7].values()))
    np.testing.assert_allclose(made.given_vectors[7], mean(text), atol=1e-5)
    assert made.manifest["item_ids"]["vectors"] == str(folder)
    assert find_leaks(made) == []


def test_texts_of_no_words_and_other_folders_are_refused(encoder, tmp_path):
    with pytest.raises(UserError, match="found no title, brand or category"):
        encode_texts(encoder[0], ["", ""])
    with pytest.raises(UserError, match=r"found no spiece.model and no run.json, expected"):
        encode_texts(tmp_path, TEXTS)


@pytest.mark.check
def test_a_run_folder_is_an_encoder(world, tmp_path, monkeypatch):
    run = random_run(world.path, tmp_path / "run")
    monkeypatch.setattr(Run, "load", lambda folder: run)  # it has no checkpoint
    tokens = np.array([run.vocabulary.encode("tea and a cup")], np.int32)
    states = run.model.apply({"params": run.params}, tokens, None, False, method=Transformer.encode)
    found = encode_texts(tmp_path / "run", ["tea and a cup"])
    np.testing.assert_allclose(found[0], np.asarray(states)[0].mean(axis=0), atol=1e-5)
